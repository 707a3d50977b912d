# bash completion for testudo(1)

_testudo_words() # CURRENT WORD-LIST
{
    mapfile -t COMPREPLY < <(compgen -W "$2" -- "$1")
}

# files, and folders; only those that end with one of the words after it, if there is any such
_testudo_files() # CURRENT [SUFFIX...]
{
    local cur=$1 suffix
    shift
    compopt -o filenames 2>/dev/null
    mapfile -t COMPREPLY < <(for suffix; do compgen -f -X "!*$suffix" -- "$cur"; done)
    if [ ${#COMPREPLY[@]} -gt 0 ]; then
        mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -d -- "$cur")
    else
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    fi
}

# "unix:PATH" and the like, of these schemes
_testudo_uri() # CURRENT SCHEMES
{
    case $1 in
    file:* | unix:*)
        _testudo_files "${1#*:}"
        COMPREPLY=("${COMPREPLY[@]/#/${1%%:*}:}")
        ;;
    *)
        compopt -o nospace 2>/dev/null
        _testudo_words "$1" "$2"
        ;;
    esac
}

_testudo_ask() # ARGUMENT...: this testudo, as it was typed
{
    local program=${COMP_WORDS[0]}
    type -P -- "$program" >/dev/null || program=testudo
    "$program" "$@" 2>/dev/null </dev/null
}

_testudo_guests() # CURRENT
{
    _testudo_words "$1" "$(_testudo_ask list | awk 'NR > 1 { print $1 }')"
}

# CPU models with their versions and other names; after a comma, features to add and take away
_testudo_cpu() # CURRENT
{
    local known
    known=$(_testudo_ask run --cpu help)
    case $1 in
    */* | *.json) _testudo_files "$1" .json ;;
    *,*)
        mapfile -t COMPREPLY < <(compgen -P "${1%,*}," -W "$(awk '/^[A-Z]/ { f = /^Features/; next }
            f { for (i = 1; i <= NF; i++) print "+" $i " -" $i }' <<<"$known")" -- "${1##*,}")
        ;;
    *)
        # a template's path is found by its folder: ./NAME.json
        _testudo_words "$1" "$(awk '/^[A-Z]/ { f = /^Features/; next } !f { print $1 }' <<<"$known") help"
        ;;
    esac
}

_testudo_disk() # CURRENT
{
    case $1 in
    *,*)
        compopt -o nospace 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -P "${1%,*}," -W 'ro direct serial= format=raw' -- "${1##*,}")
        ;;
    *) _testudo_files "$1" ;;
    esac
}

_testudo_network() # CURRENT
{
    local names
    compopt -o nospace 2>/dev/null
    case $1 in
    *,*) mapfile -t COMPREPLY < <(compgen -P "${1%,*}," -W 'mac= vhost vhostfd=' -- "${1##*,}") ;;
    *)
        names=(/sys/class/net/*/tun_flags)
        names=("${names[@]%/tun_flags}")
        [ -e "${names[0]}" ] || names=()
        _testudo_words "$1" "tap= fd= ${names[*]/#*\//tap=}"
        ;;
    esac
}

_testudo_guest_says() # CURRENT: what --guest takes
{
    local words='reported= sees= unaware'
    case $1 in
    *sees=*) words='bhi_ctrl rrsba_ctrl ipred_ctrl ibrs_all rsba rrsba bhi_no its_no none' ;;
    *reported=*) words='short retpoline none unaware sees=' ;;
    esac
    compopt -o nospace 2>/dev/null
    mapfile -t COMPREPLY < <(compgen -P "${1%"${1##*[=,]}"}" -W "$words" -- "${1##*[=,]}")
}

# The value of an option. Return: 1 for one without
_testudo_value() # OPTION CURRENT
{
    case $1 in
    --cpu) _testudo_cpu "$2" ;;
    --policy) _testudo_files "$2" .yaml .yml ;;
    --host | --from | --host-facts) _testudo_files "$2" .json ;;
    -k | --kernel | -i | --initrd | --dump-dtb | --mitigation-report) _testudo_files "$2" ;;
    -d | --disk) _testudo_disk "$2" ;;
    -n | --network) _testudo_network "$2" ;;
    --serial) _testudo_uri "$2" 'stdio file: unix: pty none' ;;
    --incoming) _testudo_uri "$2" 'tcp: unix: fd: file:' ;;
    --guest) _testudo_guest_says "$2" ;;
    --on-timeout) _testudo_words "$2" 'cancel force throttle' ;;
    -p | --params | -c | --cpus | -m | --mem | --name | --ready-fd | --dirty-ring | --kvm-cap-force-spec-ctrl | \
        --timeout | --stall-timeout | --downtime-ms | --channels) ;;
    *) return 1 ;;
    esac
}

_testudo_options() # COMMAND
{
    case $1 in
    run)
        echo --kernel --initrd --params --cpus --mem --disk --network --serial --name --incoming --verify-snapshot --clock-realtime \
            --daemonize --ready-fd --paused --dump-dtb --no-reboot --hugepages --prealloc --dirty-ring --no-rng \
            --no-sandbox --cpu --policy --host-facts --mitigation-report --kvm-cap-force-spec-ctrl --verbose --quiet --help
        ;;
    list | stat) echo --json --quiet --help ;;
    pause | resume) echo --quiet --help ;;
    stop) echo --timeout --force --quiet --help ;;
    migrate)
        echo --downtime-ms --timeout --stall-timeout --on-timeout --channels --local --dry-run --json --quiet --help
        ;;
    save) echo --keep-running --force --json --quiet --help ;;
    host) echo --kvm-cap-force-spec-ctrl --json --quiet --help ;;
    explain) echo --policy --host --from --cpu --guest --kvm-cap-force-spec-ctrl --json --quiet --help ;;
    policy | check) echo --quiet --help ;;
    esac
}

# The plain words of a command, of which this is number N from 1
_testudo_plain() # COMMAND CURRENT N
{
    case $1-$3 in
    run-1) _testudo_files "$2" ;;
    stat-1 | pause-1 | resume-1 | stop-1 | migrate-1 | save-1) _testudo_guests "$2" ;;
    migrate-2) _testudo_uri "$2" 'tcp: unix:' ;;
    save-2) _testudo_files "$2" ;;
    policy-1) _testudo_words "$2" 'check explain' ;;
    check-*) _testudo_files "$2" .yaml .yml ;;
    esac
}

# What is before the cursor, as testudo gets it: the shell takes = and : for words of their own
_testudo_join()
{
    local i word
    words=()
    for ((i = 0; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [ "$i" -gt 1 ] && { [[ $word == [=:]* ]] || [[ ${COMP_WORDS[i - 1]} == *[=:] ]]; }; then
            words[${#words[@]} - 1]+=$word
        else
            words+=("$word")
        fi
    done
}

_testudo()
{
    local commands='run list stat pause resume stop migrate save host policy version help'
    local words cur prev command first=2 i n=1
    COMPREPLY=()
    _testudo_join
    command=${words[1]} cur=${words[-1]} prev=${words[${#words[@]} - 2]}
    if [ ${#words[@]} -le 2 ]; then
        _testudo_words "$cur" "$commands --help --version"
        return
    fi
    if [ "$command" = help ]; then
        [ ${#words[@]} -eq 3 ] && _testudo_words "$cur" "$commands"
        return
    fi
    if [ "$command" = policy ] && [ ${#words[@]} -gt 3 ]; then
        command=${words[2]} first=3
    fi
    if [[ $cur == --*=* ]]; then
        prev=${cur%%=*} cur=${cur#*=}
    fi
    if ! _testudo_value "$prev" "$cur"; then
        if [[ $cur == -* ]]; then
            _testudo_words "$cur" "$(_testudo_options "$command")"
        else
            for ((i = first; i < ${#words[@]} - 1; i++)); do
                [[ ${words[i]} == -* ]] && continue
                [[ ${words[i - 1]} == -* && ${words[i - 1]} != *=* ]] &&
                    _testudo_value "${words[i - 1]}" /dev/null && continue
                n=$((n + 1))
            done
            COMPREPLY=()
            _testudo_plain "$command" "$cur" "$n"
        fi
    fi
    # the shell completes what follows the last = or :
    [[ ${COMP_WORDBREAKS-=:} == *[=:]* ]] && COMPREPLY=("${COMPREPLY[@]#"${cur%"${cur##*[=:]}"}"}")
}
complete -F _testudo testudo
