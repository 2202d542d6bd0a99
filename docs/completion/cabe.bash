# bash completion for cabe: commands, their options, models by name, files.

_cabe_commands="machine pull list show rm plan fit embed search analyze run serve top bench tokenize"

_cabe_options() {
    local common="--memory --threads --device --json --verbose" model="--dtype --precision --batch"
    case $1 in
    machine) echo "--json --describe --measure" ;;
    pull) echo "--name --link --force --json" ;;
    list | rm) echo "--json" ;;
    show) echo "--tensors --json" ;;
    plan) echo "--describe --model --rows --ctx --kv $model $common" ;;
    fit) echo "--verify --remove $model $common" ;;
    embed) echo "-i --input -o --output --prefix --rows $model $common" ;;
    search) echo "-i --input -k --top --rows $model $common" ;;
    tokenize) echo "-i --input --ids --count --decode --special --json" ;;
    run)
        echo "-n --temp --top-k --top-p --min-p --repeat-penalty --frequency-penalty --presence-penalty --seed --stop" \
            "--ctx --shift --kv --system --raw --no-echo --ignore-eos --logprobs $model $common"
        ;;
    serve)
        echo "--config --print-config --preset --host --port --unix-socket --tls-certificate --tls-key --api-keys" \
            "--cors-origins --models --pins --memory --threads --context --parallel --kv --workers --worker-wait" \
            "--generation-timeout --training-timeout --save-load-timeout --slot-wait --heavy-slots --keep-alive --eviction" \
            "--queue-requests --queue-tokens --body --upload --header --connections --json-depth --drain" \
            "--max-patterns --max-backup-patterns --context-window --min-generated --activation-cache --cache-key" \
            "--activation-threshold --frequency-normalization --performance-log --slow-ms --jobs-path" \
            "--metrics-prefix"
        ;;
    top) echo "--url --key -n --interval --once --json" ;;
    bench) echo "--tests --repeats --kv $model $common" ;;
    analyze) echo "--model --threshold --min-words --rows --all $model $common" ;;
    esac
}

_cabe_models() {
    cabe list --json 2>/dev/null | sed -nE 's/.*"name": *"([^"]+)".*/\1/p'
}

_cabe() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command=${COMP_WORDS[1]}

    if [ "$COMP_CWORD" -eq 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W "$_cabe_commands help --help --version" -- "$word")
        return
    fi
    case $before in
    --dtype) mapfile -t COMPREPLY < <(compgen -W "f32 f16 bf16 int8 q8_0 q4_0" -- "$word") && return ;;
    --prefix) mapfile -t COMPREPLY < <(compgen -W "query passage none" -- "$word") && return ;;
    --precision) mapfile -t COMPREPLY < <(compgen -W "int8 high" -- "$word") && return ;;
    --rows) mapfile -t COMPREPLY < <(compgen -W "f32 f16 int8" -- "$word") && return ;;
    --kv) mapfile -t COMPREPLY < <(compgen -W "f32 f16 q8" -- "$word") && return ;;
    --device) mapfile -t COMPREPLY < <(compgen -W "cpu sim" -- "$word") && return ;;
    -m | --model) mapfile -t COMPREPLY < <(compgen -W "$(_cabe_models)" -- "$word") && return ;;
    --memory) mapfile -t COMPREPLY < <(compgen -W "256M 512M 1G 2G 4G" -- "$word") && return ;;
    --preset) mapfile -t COMPREPLY < <(compgen -W "development production high_performance" -- "$word") && return ;;
    --models | --pins) mapfile -t COMPREPLY < <(compgen -W "$(_cabe_models)" -- "$word") && return ;;
    --config | --tls-certificate | --tls-key | --unix-socket) mapfile -t COMPREPLY < <(compgen -f -- "$word") && return ;;
    --threads | --describe | --url | --key | --interval | --name | --threshold | --min-words | --batch | --top | -k) return ;;
    esac
    if [[ $word == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(_cabe_options "$command") --help" -- "$word")
        return
    fi
    case $command in
    show | rm) mapfile -t COMPREPLY < <(compgen -W "$(_cabe_models)" -- "$word") ;;
    plan | fit | embed | search | run | serve | bench | tokenize) mapfile -t COMPREPLY < <(compgen -f -W "$(_cabe_models)" -- "$word") ;;
    machine | list | top) ;;
    *) mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
    esac
}

complete -o filenames -F _cabe cabe
