# fish completion for left4ctl(1), which itself knows what can follow: left4ctl __complete

function __left4ctl_complete
    set -l words (commandline -opc)
    set -l word (commandline -ct)
    set -l lines ($words[1] __complete -- $words[2..-1] "$word" 2>/dev/null)
    switch "$lines[1]"
        case files
            __fish_complete_path "$word"
        case words nospace
            string join \n -- $lines[2..-1]
    end
end

complete -c left4ctl -f -a '(__left4ctl_complete)'
