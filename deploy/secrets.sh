# shellcheck shell=bash
# Puts your own secrets and settings into the environment: the lines NAME=value of ~/.inoc_ray.env. Sourced.
# A value is all that stands after the first =, as `kubectl create secret --from-env-file` takes it: no quotes, no $, no comments.
if [ -f "$HOME/.inoc_ray.env" ]; then
    while IFS= read -r line || [ -n "$line" ]; do
        line=${line#"${line%%[![:space:]]*}"}
        line=${line%$'\r'}
        case $line in
            '' | '#'*) ;;
            *=*) export -- "${line?}" ;;
        esac
    done < "$HOME/.inoc_ray.env"
    unset line
fi
