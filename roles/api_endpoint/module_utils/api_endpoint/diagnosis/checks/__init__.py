# SPDX-License-Identifier: GPL-3.0-or-later
"""The checks of a diagnosis, by where they look."""
