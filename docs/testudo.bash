# bash completion for testudo(1)
_testudo_policy()
{
    if [ "$2" = policy ]; then
        mapfile -t COMPREPLY < <(compgen -W 'check explain --help' -- "$1")
    elif [ "$2" = --guest ]; then
        compopt -o nospace
        mapfile -t COMPREPLY < <(compgen -W 'reported= sees= unaware' -- "$1")
    elif [[ $1 == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W '--policy --host --from --cpu --guest
            --kvm-cap-force-spec-ctrl --json --help' -- "$1")
    else
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$1")
    fi
}
# the guests that run, and the options in $2
_testudo_guest()
{
    if [[ $1 == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$2" -- "$1")
    else
        mapfile -t COMPREPLY < <(compgen -W "$(testudo list 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$1")
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
        mapfile -t COMPREPLY < <(compgen -W 'run list stat pause resume stop migrate save host policy version help --help
            --version' -- "$cur")
        return
    fi
    case ${words[1]} in
    help)
        mapfile -t COMPREPLY < <(compgen -W 'run list stat pause resume stop migrate save host policy version help' -- "$cur")
        return
        ;;
    list)
        mapfile -t COMPREPLY < <(compgen -W '--json --help' -- "$cur")
        return
        ;;
    host)
        mapfile -t COMPREPLY < <(compgen -W '--kvm-cap-force-spec-ctrl --json --help' -- "$cur")
        return
        ;;
    stat)
        _testudo_guest "$cur" '--json --help'
        return
        ;;
    pause | resume)
        _testudo_guest "$cur" --help
        return
        ;;
    stop)
        [ "$prev" = --timeout ] || _testudo_guest "$cur" '--timeout --force --help'
        return
        ;;
    migrate)
        case $prev in
        --downtime-ms | --timeout | --channels) return ;;
        --on-timeout)
            mapfile -t COMPREPLY < <(compgen -W 'cancel force throttle' -- "$cur")
            return
            ;;
        esac
        if [ "$cword" -eq 3 ] && [[ $cur != -* ]]; then
            compopt -o nospace
            mapfile -t COMPREPLY < <(compgen -W 'tcp: unix:' -- "$cur")
            return
        fi
        _testudo_guest "$cur" '--downtime-ms --timeout --stall-timeout --on-timeout --channels --local --dry-run --json --help'
        return
        ;;
    save)
        if [ "$cword" -ge 3 ] && [[ $cur != -* ]]; then
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
        else
            _testudo_guest "$cur" '--keep-running --force --json --help'
        fi
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
    -p | --params | -c | --cpus | -m | --mem | --name | --ready-fd | --kvm-cap-force-spec-ctrl) return ;;
    -n | --network)
        compopt -o nospace
        mapfile -t COMPREPLY < <(
            shopt -s nullglob
            names=(/sys/class/net/*/tun_flags)
            names=("${names[@]%/tun_flags}")
            case $cur in
            *,*) compgen -P "${cur%,*}," -W 'mac= vhost vhostfd=' -- "${cur##*,}" ;;
            *) compgen -W "tap= fd= ${names[*]/#*\//tap=}" -- "$cur" ;;
            esac
        )
        # the shell completes what follows the last = or :
        COMPREPLY=("${COMPREPLY[@]#"${cur%"${cur##*[=:]}"}"}")
        return
        ;;
    -d | --disk)
        compopt -o filenames
        case $cur in
        *,*)
            compopt -o nospace
            mapfile -t COMPREPLY < <(compgen -P "${cur%,*}," -W 'ro direct serial= format=raw' -- "${cur##*,}")
            COMPREPLY=("${COMPREPLY[@]#"${cur%"${cur##*[=:]}"}"}")
            ;;
        *) mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
        esac
        return
        ;;
    --incoming)
        compopt -o nospace
        mapfile -t COMPREPLY < <(compgen -W 'tcp: unix: fd: file:' -- "$cur")
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
            --name --incoming --verify-snapshot --clock-realtime --daemonize --ready-fd --paused --dump-dtb --no-reboot --hugepages --prealloc --dirty-ring --no-rng --no-sandbox --cpu --policy --host-facts --mitigation-report
            --kvm-cap-force-spec-ctrl --verbose --help' -- "$cur")
    else
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    fi
}
complete -F _testudo testudo
