# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads what people have made of the old template; nothing of it is ever run."""
