# SPDX-License-Identifier: GPL-3.0-or-later
"""Model data on a volume of its own."""
