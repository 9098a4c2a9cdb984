# SPDX-License-Identifier: GPL-3.0-or-later
"""On the controller: settings are checked, files compared and sent, several hosts taken as one."""
