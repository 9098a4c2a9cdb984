# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role's modules and action plugins share; docs/architecture.md has the map."""
