# fish completion for left4ctl(1)

function __left4ctl_instances
    left4ctl --no-legend list 2>/dev/null | string replace -r ' .*' ''
end

function __left4ctl_jobs
    left4ctl --no-legend job list 2>/dev/null | string trim | string replace -r ' .*' ''
end

# Tells whether the words that are no options begin with those given.
function __left4ctl_said
    set -l words (commandline -opc | string match -v -- '-*')
    test (count $words) -gt (count $argv); and test "$words[2.."(math 1 + (count $argv))"]" = "$argv"
end

complete -c left4ctl -f
complete -c left4ctl -s q -l quiet -d 'Print neither steps nor headings'
complete -c left4ctl -s h -l help -d 'Print help'
complete -c left4ctl -l version -d 'Print the version'

set -l verbs create configure initialize start stop restart kill reset delete list status logs game job version help
set -l none "not __fish_seen_subcommand_from $verbs"
complete -c left4ctl -n $none -a create -d 'Define an instance and reserve its port'
complete -c left4ctl -n $none -a configure -d 'Change the definition of an instance'
complete -c left4ctl -n $none -a initialize -d 'Render the files of an instance'
complete -c left4ctl -n $none -a start -d 'Start, now and whenever the machine boots'
complete -c left4ctl -n $none -a stop -d 'Stop, and stay stopped'
complete -c left4ctl -n $none -a restart -d 'Stop, render and start again'
complete -c left4ctl -n $none -a kill -d 'End every process at once, and stay stopped'
complete -c left4ctl -n $none -a reset -d 'Stop and remove all that the server wrote'
complete -c left4ctl -n $none -a delete -d 'Stop and remove an instance'
complete -c left4ctl -n $none -a list -d 'List the instances'
complete -c left4ctl -n $none -a status -d 'Show an instance, or left4d itself'
complete -c left4ctl -n $none -a logs -d 'Show what a server wrote'
complete -c left4ctl -n $none -a game -d 'Install the game'
complete -c left4ctl -n $none -a job -d 'List, show and cancel jobs'
complete -c left4ctl -n $none -a version -d 'Print the versions'
complete -c left4ctl -n $none -a help -d 'Print help'

complete -c left4ctl -n '__left4ctl_said help' -a "$verbs"
complete -c left4ctl -n '__left4ctl_said game; and not __left4ctl_said game import' -a import -d 'From a directory or a tar file'
complete -c left4ctl -n '__left4ctl_said game import' -F
complete -c left4ctl -n '__left4ctl_said job; and not __fish_seen_subcommand_from list show cancel' -a 'list show cancel'
complete -c left4ctl -n '__left4ctl_said job show; or __left4ctl_said job cancel' -a '(__left4ctl_jobs)'
complete -c left4ctl -n '__fish_seen_subcommand_from configure initialize start stop restart kill reset delete status logs' -a '(__left4ctl_instances)'

set -l lasting '__fish_seen_subcommand_from start stop restart kill reset delete; or __left4ctl_said game import'
complete -c left4ctl -n "$lasting; or __fish_seen_subcommand_from initialize" -l no-wait -d 'Do not wait for the end of the job'
complete -c left4ctl -n $lasting -x -l timeout -d 'Give the job up after that time'
complete -c left4ctl -n "$lasting; or __fish_seen_subcommand_from create configure initialize; or __left4ctl_said job cancel" -l no-ask-password -d 'Do not let polkit ask for a password'
complete -c left4ctl -n '__left4ctl_said list; or __left4ctl_said status; or __left4ctl_said job list; or __left4ctl_said job show' -l json -d 'Print JSON'
complete -c left4ctl -n '__left4ctl_said list; or __left4ctl_said job list' -l no-legend -d 'Print neither headings nor a count'
complete -c left4ctl -n '__left4ctl_said logs' -x -s n -l lines -d 'Show the newest lines'
complete -c left4ctl -n '__left4ctl_said logs' -s f -l follow -d 'Go on showing new lines'
complete -c left4ctl -n '__left4ctl_said initialize' -r -F -s f -l file -d 'Spec file'

set -l defining '__fish_seen_subcommand_from create configure'
complete -c left4ctl -n $defining -x -l port -d 'Game port'
complete -c left4ctl -n $defining -x -l label -d 'Name to show to people'
complete -c left4ctl -n $defining -x -l hostname -d 'Name in the server browser of the game'
complete -c left4ctl -n $defining -x -l arg -d 'Launch argument'
complete -c left4ctl -n $defining -x -l config-line -d 'Line of server.cfg'
complete -c left4ctl -n $defining -x -l overlay -d 'Overlay, the first wins'
complete -c left4ctl -n $defining -x -l restart -a 'always on-failure no' -d 'When systemd restarts it'
complete -c left4ctl -n $defining -x -l limit -a 'MemoryMax= MemoryHigh= CPUQuota= AllowedCPUs= TasksMax=' -d 'Resource limit'
