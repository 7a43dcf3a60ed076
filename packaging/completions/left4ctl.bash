# bash completion for left4ctl(1), which itself knows what can follow: left4ctl __complete

_left4ctl() {
	local -a words=() lines=()
	local i word='' kind='' before='' glue=''
	COMPREPLY=()

	# bash parts words at = and :, left4ctl does not.
	for ((i = 1; i <= COMP_CWORD; i++)); do
		word=${COMP_WORDS[i]}
		if [[ $word == [=:]* && ${#words[@]} -gt 0 ]]; then
			words[-1]+=$word
			glue=yes
		elif [[ -n $glue ]]; then
			words[-1]+=$word
			glue=
		else
			words+=("$word")
		fi
	done
	word=${words[-1]}

	mapfile -t lines < <("$1" __complete -- "${words[@]}" 2>/dev/null)
	kind=${lines[0]-}
	case $kind in
	files)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -f -- "$word")
		return
		;;
	nospace) compopt -o nospace 2>/dev/null ;;
	esac
	# What stands before the last = or : is there already, as far as bash knows.
	[[ $word != *[=:]* ]] || before=${word%"${word##*[=:]}"}
	for word in "${lines[@]:1}"; do
		word=${word%%$'\t'*}
		COMPREPLY+=("${word#"$before"}")
	done
}

complete -F _left4ctl left4ctl
