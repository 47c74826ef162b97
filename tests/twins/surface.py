"""Prints what the installed Patroni accepts, one thing a line: the keys of its configuration, the
variables, the commands of its command line and their options. tests/twins/surface.rs reads it."""

from patroni import validator
from patroni.config import Config, _AUTH_ALLOWED_PARAMETERS
from patroni.ctl import ctl


def names(key):
    """A key of the schema may stand for one of several."""
    if isinstance(key, validator.Optional):
        return names(key.name)
    return [name for arg in key.args for name in names(arg)] if hasattr(key, "args") else [key]


def keys(node, path=""):
    if isinstance(node, validator.Schema):
        return keys(node.validator, path)
    if isinstance(node, validator.Or):
        for part in node.args:
            keys(part, path)
    if not isinstance(node, dict):
        return
    for key, below in node.items():
        for name in names(key):
            print("key", path + name)
            alone = below._schema[name] if isinstance(below, validator.Case) else below
            keys(alone, path + name + ".")


class Watched(dict):
    """An environment that has nothing, and remembers what it was asked for."""

    asked = set()

    def get(self, key, default=None):
        self.asked.add(key)
        return default

    def pop(self, key, default=None):
        return self.get(key, default)


def variables():
    from patroni import config

    before, config.os.environ = config.os.environ, Watched()
    try:
        Config._build_environment_configuration()
    finally:
        config.os.environ = before
    for name in sorted(Watched.asked):
        print("variable", name)


keys(validator.schema)
for name in _AUTH_ALLOWED_PARAMETERS:
    print("key", "postgresql.authentication.superuser." + name)
variables()
for name, command in ctl.commands.items():
    print("command", name)
    for parameter in command.params:
        if parameter.param_type_name == "option":
            for option in parameter.opts + parameter.secondary_opts:
                print("option", name, option)
for parameter in ctl.params:
    for option in parameter.opts:
        print("option", "-", option)
