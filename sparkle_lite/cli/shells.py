"""The commands `completion` and `man`: made of the same declarations as --help, so that they are never behind it."""

import argparse
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import sparkle_lite
from sparkle_lite.cli.commands import CommandParser, add_command, help_text, sentence
from sparkle_lite.texts import ENGLISH

_PROGRAM, _FUNCTION = "sparkle-lite", "_sparkle_lite"
# The names of values that are files, where a shell knows better what to offer.
_FILES = {"FILE", "DIR", "SOURCE"}


class Command(NamedTuple):
    """A command or group: the words that lead to it, its sentence, its arguments, and the commands below it by name."""

    path: tuple[str, ...]
    text: str
    arguments: tuple[argparse.Action, ...]
    below: Mapping[str, str]

    @property
    def options(self) -> list[argparse.Action]:
        """The arguments that are given by name."""
        return [action for action in self.arguments if action.option_strings]

    @property
    def positionals(self) -> list[argparse.Action]:
        """The others."""
        return [action for action in self.arguments if not action.option_strings]


def add_shell_commands(commands: Any, parser: CommandParser) -> None:
    """Add both; `parser` is the whole program's."""
    completion = add_command(commands, "completion", _Printer(parser).complete)
    completion.add_argument("shell", metavar="SHELL", choices=tuple(_SHELLS))
    add_command(commands, "man", _Printer(parser).page)


class _Printer:
    """Prints what is made of the whole program's declarations, which are complete only when a command runs."""

    def __init__(self, parser: CommandParser) -> None:
        self._parser = parser

    def complete(self, args: argparse.Namespace) -> None:
        print(_SHELLS[args.shell](list(walk(self._parser))), end="")

    def page(self, _: argparse.Namespace) -> None:
        print(man_page(list(walk(self._parser))), end="")


def walk(parser: CommandParser, path: tuple[str, ...] = ()) -> Iterator[Command]:
    """The program and every command below it, in the order of --help."""
    below = {name: _about(each) for name, each in parser.below.items()}
    yield Command(path, _about(parser), tuple(parser.arguments), below)
    for name, each in parser.below.items():
        yield from walk(each, (*path, name))


def _about(parser: CommandParser) -> str:
    return sentence(help_text(parser.description, ENGLISH), ENGLISH)


def _takes_value(action: argparse.Action) -> bool:
    return action.nargs != 0


# --- bash, zsh --------------------------------------------------------------------------------------------------------

_BASH = """\
# eval "$(sparkle-lite completion bash)", or into /etc/bash_completion.d/sparkle-lite
{function}() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} at="" words="" i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "$at ${{COMP_WORDS[i]}}" in
            {paths}) at="$at ${{COMP_WORDS[i]}}" ;;
        esac
    done
    COMPREPLY=()
    case "$at $prev" in
{values}
        *)
            case "$at" in
{words}
            esac
            ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
# Where nothing is offered, files are.
complete -o bashdefault -o default -F {function} sparkle-lite
"""
_ZSH = """\
# eval "$(sparkle-lite completion zsh)", in ~/.zshrc behind compinit
autoload -U +X bashcompinit && bashcompinit
"""


def bash(commands: list[Command]) -> str:
    """A function for bash's `complete`."""
    paths = [f'"{_joined(command.path)}"' for command in commands if command.path]
    free = _taking_anything(commands)
    after_free = "|".join(f'*" {name}"' for name in sorted(free))
    values = [f"        {after_free}) ;;"]
    words = []
    for command in commands:
        at = _joined(command.path)
        for action in command.options:
            names = [name for name in action.option_strings if name not in free]
            if names and _takes_value(action):
                pattern = "|".join(f'"{at} {name}"' for name in names)
                values.append(f'        {pattern}) words="{_choices(action)}" ;;')
        offered = [*command.below, *_names(command)]
        offered += [word for action in command.positionals for word in _choices(action).split()]
        words.append(f'                "{at}") words="{" ".join(offered)}" ;;')
    return _BASH.format(function=_FUNCTION, paths="|".join(paths), values="\n".join(values), words="\n".join(words))


def zsh(commands: list[Command]) -> str:
    """The same by way of zsh's own bashcompinit."""
    return _ZSH + bash(commands).partition("\n")[2]


def _taking_anything(commands: list[Command]) -> set[str]:
    """The options behind which anything may stand, whatever command they belong to."""
    taking: dict[str, set[bool]] = {}
    for command in commands:
        for action in command.options:
            for name in action.option_strings:
                taking.setdefault(name, set()).add(_takes_value(action) and action.choices is None)
    return {name for name, takes in taking.items() if takes == {True}}


def _joined(path: tuple[str, ...]) -> str:
    return "".join(f" {word}" for word in path)


def _names(command: Command) -> list[str]:
    """The options as they are offered: the long ones."""
    return [name for action in command.options for name in action.option_strings if name.startswith("--")]


def _choices(action: argparse.Action) -> str:
    return " ".join(map(str, action.choices or ()))


# --- fish -------------------------------------------------------------------------------------------------------------

_FISH = """\
# sparkle-lite completion fish > ~/.config/fish/completions/sparkle-lite.fish
function __sparkle_lite_at --description 'Whether the commands so far are these, and others may follow or not'
    set -l path
    for word in (commandline -opc)[2..-1]
        string match -q -- '-*' $word; or set -a path $word
    end
    if test "$argv[1]" = below
        test "$path" = "$argv[2..-1]"
    else
        set -l count (math (count $argv) - 1)
        test $count -eq 0; and return 0
        test (count $path) -ge $count; and test "$path[1..$count]" = "$argv[2..-1]"
    end
end
"""


def fish(commands: list[Command]) -> str:
    """A line of fish's `complete` for each command and option."""
    lines = [_FISH.rstrip("\n")]
    for command in commands:
        at = _joined(command.path)
        for name, text in command.below.items():
            lines.append(f"complete -c {_PROGRAM} -f -n '__sparkle_lite_at below{at}' -a {name} -d {_fish_text(text)}")
        for action in command.options:
            names = [name for name in action.option_strings if name.startswith("--")]
            lines += [_fish_option(f"__sparkle_lite_at in{at}", name, action) for name in names]
        for action in command.positionals:
            if action.choices:
                choices = _fish_text(_choices(action))
                lines.append(f"complete -c {_PROGRAM} -f -n '__sparkle_lite_at below{at}' -a {choices}")
    return "\n".join(lines) + "\n"


def _fish_option(condition: str, name: str, action: argparse.Action) -> str:
    value = ""
    if _takes_value(action):
        is_file = action.metavar in _FILES
        value = " -r" if is_file else f" -x -a {_fish_text(_choices(action))}" if action.choices else " -x"
    return f"complete -c {_PROGRAM} -n '{condition}' -l {name[2:]}{value} -d {_fish_text(_help(action))}"


def _fish_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_SHELLS: Mapping[str, Callable[[list[Command]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}


# --- man --------------------------------------------------------------------------------------------------------------

_MAN_HEAD = """\
.TH SPARKLE-LITE 1 "" "Sparkle Lite {version}" "User Commands"
.SH NAME
sparkle-lite \\- a BTN server in one light process on SQLite
.SH SYNOPSIS
.B sparkle-lite
[\\fB\\-\\-config\\fR \\fIFILE\\fR] [\\fICOMMAND\\fR] ...
.SH DESCRIPTION
"""
_MAN_TAIL = """\
.SH FILES
.TP
.I config.toml
The configuration, where it is in the working directory; another one is named with \\fB\\-\\-config\\fR.
.TP
.I data/sparkle.db
The main database, where \\fBdatabase.path\\fR says nothing else. What was observed is in the folder
.I data/sparkle.db.segments
beside it.
.SH ENVIRONMENT
.TP
.BI SPARKLE_ SECTION __ KEY
Sets a key of the configuration and wins over the file.
.TP
.BR LC_ALL ", " LC_MESSAGES ", " LANG
The language of \\fB\\-\\-help\\fR and of \\fBsparkle-lite doctor\\fR.
.SH EXIT STATUS
0 done, 1 failed, 2 wrong usage or configuration.
.SH SEE ALSO
The manual, which a running server serves at
.IR /manual .
"""


def man_page(commands: list[Command]) -> str:
    """The page in the macros of man(7)."""
    program, *others = commands
    parts = [_MAN_HEAD.format(version=sparkle_lite.__version__), f"{_roff(program.text)}\n", ".SH OPTIONS\n"]
    parts += map(_man_argument, program.options)
    parts.append(".SH COMMANDS\n")
    for command in others:
        if command.below and not command.positionals and len(command.options) <= len(program.options):
            continue
        parts.append(f".SS {_roff(_man_usage(command))}\n{_roff(command.text)}\n")
        # What every command has stands above.
        parts += [_man_argument(action) for action in command.arguments if _is_its_own(action)]
    return "".join((*parts, _MAN_TAIL))


def _is_its_own(action: argparse.Action) -> bool:
    return not {"--help", "--config"} & set(action.option_strings) and bool(_help(action))


def _man_usage(command: Command) -> str:
    """A command as it is written, options left to what follows."""
    values = []
    for action in command.positionals:
        name = str(action.metavar or action.dest.upper())
        values.append(f"[{name}]" if action.nargs in ("?", "*") else name)
    return " ".join((*command.path, *values))


def _man_argument(action: argparse.Action) -> str:
    value = str(action.metavar or action.dest.upper())
    if action.choices and action.metavar is None:
        value = "|".join(map(str, action.choices))
    if not action.option_strings:
        return f".TP\n.I {_roff(value)}\n{_roff(_help(action))}\n"
    names = ", ".join(f"\\fB{_roff(name)}\\fR" for name in action.option_strings)
    more = f" \\fI{_roff(value)}\\fR" if _takes_value(action) else ""
    return f".TP\n{names}{more}\n{_roff(_help(action))}\n"


def _help(action: argparse.Action) -> str:
    """What --help says of an argument."""
    return help_text(action.help, ENGLISH)


def _roff(text: str) -> str:
    """A text in which nothing is a request or an escape (groff_man(7))."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text
