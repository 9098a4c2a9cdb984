# SPDX-License-Identifier: GPL-3.0-or-later
"""What the access log tells of the traffic."""
