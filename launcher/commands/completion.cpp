#include "launcher/commands/completion.h"

#include <CLI/CLI.hpp>

#include "core/base/error.h"
#include "core/base/text.h"
#include "launcher/job/help_job.h"
#include "launcher/job/walk_fields.h"

namespace thimble {
namespace {

std::vector<std::string> subcommand_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* sub : app.get_subcommands({})) names.push_back(sub->get_name());
  return names;
}

// Hidden options have no group.
std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_group().empty()) continue;
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

std::vector<std::string> help_topics(const CLI::App& app) {
  std::vector<std::string> topics = subcommand_names(app);
  topics.insert(topics.end(), {"job", "completion"});
  for (const std::string& table : job::all_job_tables()) topics.push_back("job." + table);
  return topics;
}

// What may follow `thimble COMMAND`.
std::vector<std::string> words_after(const CLI::App& app, const CLI::App& command) {
  std::vector<std::string> words = subcommand_names(command);
  const std::vector<std::string> options = option_names(command);
  words.insert(words.end(), options.begin(), options.end());
  if (command.get_name() == "help") {
    const std::vector<std::string> topics = help_topics(app);
    words.insert(words.end(), topics.begin(), topics.end());
  }
  return words;
}

std::vector<std::string> settable_keys() {
  std::vector<std::string> keys = job::all_job_keys();
  for (std::string& key : keys) key += '=';
  return keys;
}

std::string bash_script(const CLI::App& app) {
  std::string cases;
  for (const CLI::App* sub : app.get_subcommands({})) {
    for (const CLI::App* inner : sub->get_subcommands({})) {
      cases += fmt::format("    '{} {}') words='{}' ;;\n", sub->get_name(), inner->get_name(),
                           join(words_after(app, *inner), " "));
    }
    cases += fmt::format("    '{} '*) words='{}' ;;\n", sub->get_name(),
                         join(words_after(app, *sub), " "));
  }
  return fmt::format(
      R"(_thimble() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} words= second=
  COMPREPLY=()
  if [[ $prev == --set ]]; then
    compopt -o nospace 2> /dev/null
    COMPREPLY=($(compgen -W '{}' -- "$cur"))
    return
  fi
  [[ $COMP_CWORD -gt 2 ]] && second=${{COMP_WORDS[2]}}
  case "${{COMP_WORDS[1]}} $second" in
{}  esac
  [[ $COMP_CWORD -eq 1 ]] && words='{}'
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -o default -F _thimble thimble
)",
      join(settable_keys(), " "), cases, join(subcommand_names(app), " "));
}

// An outer case covers what an inner one does not list: "inspect data" before "inspect *".
std::string zsh_script(const CLI::App& app) {
  return "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n" +
         bash_script(app);
}

std::string fish_script(const CLI::App& app) {
  std::string script = "complete -c thimble -n __fish_use_subcommand -f\n";
  for (const CLI::App* sub : app.get_subcommands({})) {
    const std::string name = sub->get_name();
    script += fmt::format("complete -c thimble -n __fish_use_subcommand -a {} -d '{}'\n", name,
                          "thimble " + name);
    const std::string after = fmt::format("'__fish_seen_subcommand_from {}'", name);
    for (const std::string& word : words_after(app, *sub)) {
      script += word.starts_with("--")
                    ? fmt::format("complete -c thimble -n {} -l {}\n", after, word.substr(2))
                    : fmt::format("complete -c thimble -n {} -a {}\n", after, word);
    }
  }
  return script;
}

}  // namespace

std::string completion_script(const CLI::App& app, std::string_view shell) {
  if (shell == "bash") return bash_script(app);
  if (shell == "zsh") return zsh_script(app);
  if (shell == "fish") return fish_script(app);
  throw_user("help completion {}: allowed bash, zsh, fish", printable(shell));
}

}  // namespace thimble
