"""A guide that is followed word by word: what is wrong with the page, a command or an answer ends it."""

import pytest
from helpers import PROJECT, load_file

follow = load_file(PROJECT / "tools" / "follow.py")

PAGE = """\
# A guide

<!-- file: model.py -->
```python
NAME = "mine"
EXAMPLE = 1
```

<!-- line in: model.py -->
```python
EXAMPLE = 2
```

```sh
python3 -c 'from model import *; import json; print(json.dumps({"name": NAME, "example": EXAMPLE}))'
```

```json
{"example": 2, "name": "mine"}
```
"""


def test_files_lines_commands_and_answers(tmp_path):
    follow.follow(PAGE, tmp_path, {"mine": "yours"})
    assert (tmp_path / "model.py").read_text() == 'NAME = "yours"\nEXAMPLE = 2\n'


@pytest.mark.parametrize(
    ("was", "becomes", "words"),
    [
        ('"example": 2,', '"example": 3,', "and the answer is"),
        ("EXAMPLE = 2", "OTHER = 2", "0 lines begin with 'OTHER '"),
        ("<!-- file: model.py -->\n", "", "says not which file"),
        ("```sh\n", "```sh\nfalse\n", "It ended with 1"),
        ("```sh\n", "```sh\nfalse | true\n", "It ended with 1"),
        ("```", "~~~", "no blocks"),
    ],
)
def test_what_does_not_go_as_the_page_says_ends_it(tmp_path, was, becomes, words):
    assert was in PAGE
    with pytest.raises(follow.FollowError, match=words):
        follow.follow(PAGE.replace(was, becomes), tmp_path, {})


def test_the_tutorial_is_read():
    steps = follow.steps_of((PROJECT / "docs" / "guides" / "joblib.md").read_text())
    assert [step.kind for step in steps].count("json") == 2
    assert len([step for step in steps if step.what == "file"]) == 3
