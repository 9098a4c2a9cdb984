# SPDX-License-Identifier: GPL-3.0-or-later
"""A host and its balancers."""
