# bash completion for left4ctl(1)

_left4ctl_instances() {
	left4ctl --no-legend list 2>/dev/null | cut -d ' ' -f 1
}

_left4ctl_overlays() {
	left4ctl --no-legend overlay list 2>/dev/null | cut -d ' ' -f 1
}

_left4ctl_blueprints() {
	left4ctl --no-legend blueprint list 2>/dev/null | cut -d ' ' -f 1
}

_left4ctl_jobs() {
	left4ctl --no-legend job list 2>/dev/null | sed 's/^ *//; s/ .*//'
}

_left4ctl() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	local verbs='create clone configure rename initialize start stop restart kill reset delete apply export list status logs preview secret which diff conflicts blueprint overlay game job version help'
	local blueprints='create configure list show delete'
	local overlays='create configure import build list show revisions rollback delete ls get put edit mkdir rm'
	local changing='--no-ask-password' waiting='--no-wait --timeout'
	local shared='--arg --config-line --overlay --limit'
	local settings="--blueprint --port --label --hostname --restart $shared"
	local sharedkeys='arguments= config= overlays= limits= MemoryMax= MemoryHigh= CPUQuota= AllowedCPUs= TasksMax='
	local keys="blueprint= port= label= hostname= restart= $sharedkeys"
	local common='--quiet --help --version'
	local verb='' sub='' given=0 i words=''
	COMPREPLY=()

	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		--timeout | --blueprint | --port | --label | --hostname | --arg | --config-line | --overlay | --restart | --limit | \
			--file | --lines | -n | --keep | --revision | --instance)
			((i++))
			;;
		-f)
			[[ $verb != initialize && $verb != apply ]] || ((i++))
			;;
		-*) ;;
		*)
			if [[ -z $verb ]]; then
				verb=${COMP_WORDS[i]}
			elif [[ -z $sub && $verb =~ ^(game|job|overlay|blueprint)$ ]]; then
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
		mapfile -t COMPREPLY < <(compgen -W "$(_left4ctl_overlays)" -- "$cur")
		return
		;;
	--blueprint)
		mapfile -t COMPREPLY < <(compgen -W "$(_left4ctl_blueprints)" -- "$cur")
		return
		;;
	--instance)
		mapfile -t COMPREPLY < <(compgen -W "$(_left4ctl_instances)" -- "$cur")
		return
		;;
	--file)
		compopt -o filenames
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return
		;;
	-f)
		if [[ $verb == initialize || $verb == apply ]]; then
			compopt -o filenames
			mapfile -t COMPREPLY < <(compgen -f -- "$cur")
			return
		fi
		;;
	--timeout | --port | --label | --hostname | --arg | --config-line | --lines | -n | --keep | --revision)
		return
		;;
	esac

	if [[ $cur == -* ]]; then
		case "$verb $sub" in
		'create ') words="$settings $changing" ;;
		'clone ') words="--files --label --port $changing" ;;
		'configure ') words="$settings --new-rcon-password $changing" ;;
		'blueprint create') words="$shared $changing" ;;
		'blueprint configure') words="$shared --dry-run $changing" ;;
		'initialize ') words="--file --no-wait $changing" ;;
		'apply ') words="--file --dry-run --prune $changing" ;;
		'start ' | 'stop ' | 'restart ' | 'kill ' | 'reset ' | 'delete ' | 'game import' | 'overlay build' | 'overlay delete')
			words="$waiting $changing"
			;;
		'overlay import') words="--into --merge $waiting $changing" ;;
		'overlay create' | 'overlay configure') words="--keep $changing" ;;
		'overlay get') words="--revision $changing" ;;
		'overlay ls') words="--revision --json --no-legend $changing" ;;
		'overlay rm') words="--recursive $changing" ;;
		'list ' | 'job list' | 'overlay list' | 'overlay revisions' | 'blueprint list' | 'game revisions') words='--json --no-legend' ;;
		'which ' | 'diff ') words="--json --no-legend $changing" ;;
		'conflicts ') words="--instance --json --no-legend $changing" ;;
		'status ' | 'job show' | 'overlay show' | 'blueprint show') words='--json' ;;
		'logs ') words='--lines --follow' ;;
		'rename ' | 'export ' | 'job cancel' | 'preview ' | 'secret ' | 'overlay rollback' | 'overlay put' | 'overlay edit' | 'overlay mkdir' | \
			'blueprint delete' | 'game rollback') words=$changing ;;
		esac
		mapfile -t COMPREPLY < <(compgen -W "$words $common" -- "$cur")
		return
	fi

	case "$verb $sub" in
	' ') words=$verbs ;;
	'help ') words=$verbs ;;
	'game ') words='import revisions rollback' ;;
	'job ') words='list show cancel' ;;
	'overlay ') words=$overlays ;;
	'blueprint ') words=$blueprints ;;
	'start ' | 'stop ' | 'restart ' | 'kill ' | 'reset ' | 'delete ' | 'export ') words=$(_left4ctl_instances) ;;
	'clone ' | 'rename ' | 'initialize ' | 'status ' | 'logs ' | 'preview ' | 'which ' | 'diff ') ((given > 0)) || words=$(_left4ctl_instances) ;;
	'secret ')
		case $given in
		0) words=$(_left4ctl_instances) ;;
		1) words=rcon_password ;;
		esac
		;;
	'conflicts ') ((given > 0)) || words=$(_left4ctl_blueprints) ;;
	'configure ')
		if ((given > 0)); then
			compopt -o nospace
			words=$keys
		else
			words=$(_left4ctl_instances)
		fi
		;;
	'blueprint configure')
		if ((given > 0)); then
			compopt -o nospace
			words=$sharedkeys
		else
			words=$(_left4ctl_blueprints)
		fi
		;;
	'blueprint show') ((given > 0)) || words=$(_left4ctl_blueprints) ;;
	'blueprint delete') words=$(_left4ctl_blueprints) ;;
	'overlay delete') words=$(_left4ctl_overlays) ;;
	'overlay import' | 'overlay put' | 'overlay get')
		if ((given > 0)) && [[ $sub == import || $given -gt 1 ]]; then
			compopt -o filenames
			mapfile -t COMPREPLY < <(compgen -f -- "$cur")
			return
		fi
		((given > 0)) || words=$(_left4ctl_overlays)
		;;
	'overlay configure' | 'overlay build' | 'overlay show' | 'overlay revisions' | 'overlay rollback' | 'overlay ls' | \
		'overlay edit' | 'overlay mkdir' | 'overlay rm') ((given > 0)) || words=$(_left4ctl_overlays) ;;
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
