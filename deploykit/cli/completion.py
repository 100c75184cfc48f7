"""`deploykit completion SHELL`: the script that teaches a shell to complete deploykit's command lines."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Shell(StrEnum):
    bash = "bash"
    zsh = "zsh"
    fish = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="The shell that is to read it.")],
) -> None:
    """Print a shell script that completes commands, options, recipes, deployments and files.

    bash: add `source <(deploykit completion bash)` to ~/.bashrc.
    zsh: the same line with zsh, in ~/.zshrc.
    fish: `deploykit completion fish > ~/.config/fish/completions/deploykit.fish`.
    """
    print({Shell.bash: BASH, Shell.zsh: ZSH, Shell.fish: FISH}[shell], end="")


# Each calls `deploykit __complete`, whose answer is told in _complete.py.

BASH = r"""# deploykit's completion for bash: source <(deploykit completion bash)
_deploykit() {
    local line=${COMP_LINE:0:COMP_POINT} value meaning file ending
    local typed=${line##*[[:space:]]}
    local before=${typed%"$2"}  # bash replaces only what follows the last = or : of a word
    COMPREPLY=()
    while IFS=$'\t' read -r value meaning; do
        case $value in
            :nospace) compopt -o nospace ;;
            :folders)
                compopt -o filenames
                while IFS= read -r file; do COMPREPLY+=("$file"); done < <(compgen -d -- "$2") ;;
            :files*)
                compopt -o filenames
                while IFS= read -r file; do
                    if [[ $value == :files || -d ${file/#\~/$HOME} ]]; then
                        COMPREPLY+=("$file")
                        continue
                    fi
                    for ending in ${value#:files}; do
                        [[ $file == *."$ending" ]] && COMPREPLY+=("$file")
                    done
                done < <(compgen -f -- "$2") ;;
            *) COMPREPLY+=("${value#"$before"}") ;;
        esac
    done < <("${1/#\~/$HOME}" __complete bash "$line" 2>/dev/null)
}
complete -F _deploykit deploykit
"""

ZSH = r"""#compdef deploykit
# deploykit's completion for zsh: source <(deploykit completion zsh)
_deploykit() {
    local line program=${(Q)words[1]} nospace= folders= files=
    local -a candidates endings
    while IFS= read -r line; do
        case $line in
            :nospace) nospace=1 ;;
            :folders) folders=1 ;;
            :files*) files=1; endings=(${=line#:files}) ;;
            *) candidates+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}") ;;
        esac
    done < <(${~program} __complete zsh "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)
    local found=1
    (( $#candidates )) && _describe deploykit candidates ${nospace:+-S} ${nospace:+''} && found=0
    [[ -n $folders ]] && _path_files -/ && found=0
    if [[ -n $files ]]; then
        if (( $#endings )); then
            _files -g "*.(${(j:|:)endings})" && found=0
        else
            _files && found=0
        fi
    fi
    return $found
}
if [[ $funcstack[1] == _deploykit ]]; then
    _deploykit "$@"
else
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
    compdef _deploykit deploykit
fi
"""

FISH = r"""# deploykit's completion for fish: deploykit completion fish > ~/.config/fish/completions/deploykit.fish
function __deploykit_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l program $words[1]
    set -e words[1]
    for line in ($program __complete fish $words "$current" 2>/dev/null)
        switch $line
            case ':nospace'
            case ':folders'
                __fish_complete_directories "$current"
            case ':files'
                __fish_complete_path "$current"
            case ':files *'
                set -l endings (string join '|' (string split ' ' -- $line)[2..-1])
                for file in (__fish_complete_path "$current")
                    string match -qr "/\$|\.($endings)\$" -- (string split \t -- $file)[1]; and echo $file
                end
            case '*'
                echo $line
        end
    end
end
complete -c deploykit -f -a '(__deploykit_complete)'
"""
