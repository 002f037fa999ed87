# Runs each test binary under a time limit, and says what came of it. Read by whoever set up the machine, who has a
# `tell` and says it on the second serial port.

HOME=/root
USER=root
export HOME USER
# Variables for the tests, LIMIT_SECS, THREADS, WHOLE (binaries that run without filters), LEFT_OUT (binaries that do not run), and
# the filters as arguments.
. /settings
cd /tests || tell "broken cd /tests"
tell "ready $(uname -r)"

for binary in /test-binaries/*; do
    name=${binary##*/}
    case " $LEFT_OUT " in
        *" $name "*) continue ;;
    esac
    ENFORCER_OUTCOMES=/tmp/outcomes-$name
    export ENFORCER_OUTCOMES
    : >"$ENFORCER_OUTCOMES"
    tell "begin $name"
    read -r began _ </proc/uptime
    case " $WHOLE " in
        *" $name "*) timeout -s KILL "$LIMIT_SECS" "$binary" --test-threads="$THREADS" ;;
        *) timeout -s KILL "$LIMIT_SECS" "$binary" --test-threads="$THREADS" "$@" ;;
    esac
    code=$?
    read -r ended _ </proc/uptime
    printf '\n%s took %s s\n' "$name" "$((${ended%.*} - ${began%.*}))"
    sed 's/^/@@vm outcome /' "$ENFORCER_OUTCOMES"
    tell "end $name $code"
done
tell "finished"
