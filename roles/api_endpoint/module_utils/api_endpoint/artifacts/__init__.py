# SPDX-License-Identifier: GPL-3.0-or-later
"""Model data: its store, how it is acquired, downloaded and extracted."""
