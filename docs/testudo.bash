# bash completion for testudo(1)
_testudo_policy()
{
    if [ "$2" = policy ]; then
        mapfile -t COMPREPLY < <(compgen -W 'check explain --help' -- "$1")
    elif [ "$2" = --guest ]; then
        compopt -o nospace
        mapfile -t COMPREPLY < <(compgen -W 'reported= sees=' -- "$1")
    elif [[ $1 == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W '--policy --host --from --guest --json --help' -- "$1")
    else
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$1")
    fi
}
_testudo()
{
    local cur prev words cword
    _init_completion -s 2>/dev/null || {
        cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} cword=$COMP_CWORD
        words=("${COMP_WORDS[@]}")
    }
    if [ "$cword" -eq 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W 'run host policy version help --help --version' -- "$cur")
        return
    fi
    case ${words[1]} in
    help)
        mapfile -t COMPREPLY < <(compgen -W 'run host policy version help' -- "$cur")
        return
        ;;
    host)
        mapfile -t COMPREPLY < <(compgen -W '--json --help' -- "$cur")
        return
        ;;
    policy)
        _testudo_policy "$cur" "$prev"
        return
        ;;
    run) ;;
    *) return ;;
    esac
    case $prev in
    -p | --params | -c | --cpus | -m | --mem | --kvm-cap-force-spec-ctrl) return ;;
    -n | --network)
        compopt -o nospace
        mapfile -t COMPREPLY < <(
            shopt -s nullglob
            names=(/sys/class/net/*/tun_flags)
            names=("${names[@]%/tun_flags}")
            compgen -W "tap= fd= ${names[*]/#*\//tap=}" -- "$cur"
        )
        return
        ;;
    --serial)
        compopt -o nospace
        mapfile -t COMPREPLY < <(compgen -W 'stdio file: unix: pty none' -- "$cur")
        return
        ;;
    esac
    if [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W '--kernel --initrd --params --cpus --mem --disk --network --serial
            --no-reboot --hugepages --prealloc --no-rng --no-sandbox --cpu --policy --host-facts --mitigation-report
            --kvm-cap-force-spec-ctrl --verbose --help' -- "$cur")
    else
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    fi
}
complete -F _testudo testudo
