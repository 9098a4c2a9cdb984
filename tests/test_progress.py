"""Work on the host that is followed: tasks, progress and warnings."""

from types import SimpleNamespace

from ansible.module_utils.api_endpoint.controller.progress import follow


def test_the_warnings_of_all_answers_are_shown():
    answers = [
        {"task": "a", "text": "downloading", "warnings": ["first"]},
        {"task": "a", "text": "installing"},
        {"changed": True, "warnings": ["last"]},
    ]
    given = []

    def execute(module_args, task_vars):
        given.append(dict(module_args))
        return answers[len(given) - 1]

    done = follow(SimpleNamespace(_execute_module=execute), {"name": "api"}, {})
    assert done == {"changed": True, "warnings": ["first", "last"]}
    assert [arguments.get("task") for arguments in given] == [None, "a", "a"]
