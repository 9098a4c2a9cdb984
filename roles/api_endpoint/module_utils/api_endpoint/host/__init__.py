# SPDX-License-Identifier: GPL-3.0-or-later
"""Accounts, folders, permissions and files of the host, nginx's among them."""
