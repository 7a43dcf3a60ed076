# bash completion for left4ctl(1)

_left4ctl_instances() {
	left4ctl --no-legend list 2>/dev/null | cut -d ' ' -f 1
}

_left4ctl_jobs() {
	left4ctl --no-legend job list 2>/dev/null | sed 's/^ *//; s/ .*//'
}

_left4ctl() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	local verbs='create configure initialize start stop restart kill reset delete list status logs game job version help'
	local changing='--no-ask-password' waiting='--no-wait --timeout'
	local settings='--port --label --hostname --arg --config-line --overlay --restart --limit'
	local keys='port= label= hostname= arguments= config= overlays= restart= limits= MemoryMax= MemoryHigh= CPUQuota= AllowedCPUs= TasksMax='
	local common='--quiet --help --version'
	local verb='' sub='' given=0 i words=''
	COMPREPLY=()

	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		--timeout | --port | --label | --hostname | --arg | --config-line | --overlay | --restart | --limit | --file | --lines | -n)
			((i++))
			;;
		-f)
			[[ $verb != initialize ]] || ((i++))
			;;
		-*) ;;
		*)
			if [[ -z $verb ]]; then
				verb=${COMP_WORDS[i]}
			elif [[ -z $sub && ($verb == game || $verb == job) ]]; then
				sub=${COMP_WORDS[i]}
			else
				((given++))
			fi
			;;
		esac
	done

	case $prev in
	--restart)
		mapfile -t COMPREPLY < <(compgen -W 'always on-failure no' -- "$cur")
		return
		;;
	--limit)
		compopt -o nospace
		mapfile -t COMPREPLY < <(compgen -W 'MemoryMax= MemoryHigh= CPUQuota= AllowedCPUs= TasksMax=' -- "$cur")
		return
		;;
	--overlay)
		mapfile -t COMPREPLY < <(compgen -W "$(cd /var/lib/left4/overlays 2>/dev/null && printf '%s\n' */ | tr -d /)" -- "$cur")
		return
		;;
	--file)
		compopt -o filenames
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return
		;;
	-f)
		if [[ $verb == initialize ]]; then
			compopt -o filenames
			mapfile -t COMPREPLY < <(compgen -f -- "$cur")
			return
		fi
		;;
	--timeout | --port | --label | --hostname | --arg | --config-line | --lines | -n)
		return
		;;
	esac

	if [[ $cur == -* ]]; then
		case "$verb $sub" in
		'create ' | 'configure ') words="$settings $changing" ;;
		'initialize ') words="--file --no-wait $changing" ;;
		'start ' | 'stop ' | 'restart ' | 'kill ' | 'reset ' | 'delete ' | 'game import') words="$waiting $changing" ;;
		'list ' | 'job list') words='--json --no-legend' ;;
		'status ' | 'job show') words='--json' ;;
		'logs ') words='--lines --follow' ;;
		'job cancel') words=$changing ;;
		esac
		mapfile -t COMPREPLY < <(compgen -W "$words $common" -- "$cur")
		return
	fi

	case "$verb $sub" in
	' ') words=$verbs ;;
	'help ') words=$verbs ;;
	'game ') words=import ;;
	'job ') words='list show cancel' ;;
	'start ' | 'stop ' | 'restart ' | 'kill ' | 'reset ' | 'delete ') words=$(_left4ctl_instances) ;;
	'initialize ' | 'status ' | 'logs ') ((given > 0)) || words=$(_left4ctl_instances) ;;
	'configure ')
		if ((given > 0)); then
			compopt -o nospace
			words=$keys
		else
			words=$(_left4ctl_instances)
		fi
		;;
	'job show' | 'job cancel') ((given > 0)) || words=$(_left4ctl_jobs) ;;
	'game import')
		compopt -o filenames
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return
		;;
	esac
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}

complete -F _left4ctl left4ctl
