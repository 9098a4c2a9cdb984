"""Variables and templates as a host gets them, by Ansible's own code, in this process."""

import functools
import json
import shutil
from pathlib import Path

from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.playbook.play import Play
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager
from helpers import PROJECT, ROLE

_init_plugins = functools.cache(init_plugin_loader)


def variables_of(inventory, folder=PROJECT, **extra_vars) -> VariableManager:
    """Return the variables of hosts for a playbook in a folder; `extra_vars` as by `-e`."""
    _init_plugins()
    loader = DataLoader()
    loader.set_basedir(str(folder))
    hosts = InventoryManager(loader, [str(inventory)])
    variables = VariableManager(loader, hosts)
    variables._extra_vars = loader.load(trust_as_template(json.dumps(extra_vars)))
    HostVars(hosts, variables, loader)
    return variables


def templar(
    play: dict, inventory="localhost,", host="localhost", folder=PROJECT, **extra_vars
) -> Templar:
    """Return a Templar with what a task of the play gets on the host."""
    variables = variables_of(inventory, folder, **extra_vars)
    loaded = Play.load(play, variables, variables._loader)
    return Templar(
        variables._loader, variables.get_vars(loaded, variables._inventory.get_host(host))
    )


def render(*names: str, role: str = "api_endpoint", registered: dict | None = None, **variables):
    """Return a role's templates, rendered with its defaults and variables: one text, or a list.

    What a module has returned (`registered`) is never taken for a template itself.
    """
    folder = ROLE.parent / role
    files = [str(folder / kind / "main.yml") for kind in ("defaults", "vars")]
    templates = templar({"hosts": "all", "gather_facts": False, "vars_files": files}, **variables)
    given = {
        **templates.available_variables,
        "ansible_search_path": [str(folder)],
        **(registered or {}),
    }
    templates = templates.copy_with_new_env(
        searchpath=[str(folder / "templates")], available_variables=given
    )
    texts = [
        templates.template(
            trust_as_template((folder / "templates" / name).read_text()),
            escape_backslashes=False,
            overrides={
                "trim_blocks": True,
                "lstrip_blocks": False,
            },  # as ansible.builtin.template has them
        )
        for name in names
    ]
    return texts[0] if len(texts) == 1 else texts


def write_gunicorn_settings(folder: Path, more: str = "", **variables) -> None:
    """Write gunicorn's settings into a folder, as a release has them: three files. `more` are lines of Python."""
    (folder / "gunicorn.conf.py").write_text(render("gunicorn.conf.py.j2", **variables) + more)
    for name in ("api_endpoint_worker.py", "api_endpoint_forks.py"):
        shutil.copy(ROLE / "files" / name, folder)
