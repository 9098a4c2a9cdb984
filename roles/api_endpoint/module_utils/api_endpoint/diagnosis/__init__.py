# SPDX-License-Identifier: GPL-3.0-or-later
"""Why an endpoint is unwell, and how it is doing."""
