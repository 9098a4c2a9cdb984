# SPDX-License-Identifier: GPL-3.0-or-later
"""A release: put together, started, checked, switched to, remembered."""
