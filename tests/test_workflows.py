"""The workflows run what the Makefile has, on the stacks that docs/compatibility.md has."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from stacks import STACKS

ROOT = Path(__file__).parents[1]
WORKFLOWS = {
    path.name: yaml.safe_load(path.read_text())
    for path in sorted((ROOT / '.github/workflows').glob('*.yml'))
}
FORMS = sorted(
    path for path in (ROOT / '.github/ISSUE_TEMPLATE').glob('*.yml') if path.name != 'config.yml'
)
MAKEFILE = (ROOT / 'Makefile').read_text()
NOT_IN_CI = {'stacks', 'lint-workflows'}  # an hour and more; a program that GitHub has


def steps(workflow):
    """Return the steps of all jobs."""
    return [step for job in workflow['jobs'].values() for step in job['steps']]


def targets(commands):
    """Return the targets of lines with make; nothing else may be in them."""
    found = set()
    for command in commands:
        program, *words = shlex.split(command)
        assert program == 'make', command
        found.update(words)
    return found


@pytest.mark.parametrize('name', WORKFLOWS)
def test_every_run_is_a_target_that_is_documented_and_used(name):
    found = targets(step['run'] for step in steps(WORKFLOWS[name]) if 'run' in step)
    defined = set(re.findall(r'^([\w-]+):', MAKEFILE, re.MULTILINE))
    described = set(re.findall(r"^\t@echo 'make ([\w-]+) ", MAKEFILE, re.MULTILINE))
    assert found <= defined & described
    lines = (ROOT / '.ci/run').read_text().splitlines()
    ci = targets(line.strip() for line in lines if line.strip().startswith('make '))
    assert found - NOT_IN_CI <= ci


@pytest.mark.parametrize('name', WORKFLOWS)
def test_actions_are_pinned_to_commits(name):
    lines = re.findall(r'uses: (.*)', (ROOT / '.github/workflows' / name).read_text())
    assert all(re.fullmatch(r'[\w/-]+@[0-9a-f]{40} # v[\d.]+', line) for line in lines), lines


def test_one_commit_for_each_action():
    pins = {step['uses'] for each in WORKFLOWS.values() for step in steps(each) if 'uses' in step}
    assert len({pin.partition('@')[0] for pin in pins}) == len(pins)


def test_the_matrix_has_every_stack_with_its_python():
    matrix = WORKFLOWS['stacks.yml']['jobs']['stacks']['strategy']['matrix']['include']
    found = {row['stack']: row['python'] for row in matrix}
    assert found == {name: stack.python for name, stack in STACKS.items()}


def test_only_a_tag_publishes_and_without_a_password():
    workflow = WORKFLOWS['release.yml']
    assert workflow[True] == dict(push=dict(tags=['v*']))  # YAML 1.1 reads `on` as true
    publish = workflow['jobs']['publish']
    assert publish['permissions'] == {'id-token': 'write'}
    assert publish['needs'] == 'build'
    assert 'secrets.' not in (ROOT / '.github/workflows/release.yml').read_text()


@pytest.mark.parametrize('path', FORMS, ids=lambda path: path.stem)
def test_forms_ask_for_the_versions(path):
    form = yaml.safe_load(path.read_text())
    assert form['name']
    assert form['description']
    ids = [field['id'] for field in form['body']]
    assert len(set(ids)) == len(ids)
    (env,) = (field for field in form['body'] if field['id'] == 'env')
    assert '`mmvanilla env`' in env['attributes']['description']
