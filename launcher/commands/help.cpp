// `thimble help`: commands, job keys and shell completion.
#include <fmt/core.h>

#include <CLI/CLI.hpp>

#include "core/base/error.h"
#include "core/base/text.h"
#include "launcher/commands/command.h"
#include "launcher/job/help_job.h"

namespace thimble {
namespace {

std::vector<std::string> command_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* sub : app.get_subcommands({})) names.push_back(sub->get_name());
  return names;
}

void print_help(const CLI::App& app, const std::string& topic) {
  if (topic.empty()) {
    fmt::print("{}\n`thimble help job` lists the keys of a job file, `thimble help job.training` those of a table.\n",
               app.help());
    return;
  }
  if (topic == "job" || topic.starts_with("job.")) {
    fmt::print("{}", job::job_help_text(topic == "job" ? "" : topic.substr(4)));
    return;
  }
  const std::vector<std::string> names = command_names(app);
  if (std::find(names.begin(), names.end(), topic) == names.end()) {
    const auto nearest = nearest_spelling(topic, names);
    throw_user("no help on '{}'{}; topics: job, {}", printable(topic),
               nearest ? fmt::format(", did you mean '{}'?", *nearest) : "", join(names));
  }
  fmt::print("{}", app.get_subcommand(topic)->help());
}

// Completes commands and their options.
void print_bash_completion(const CLI::App& app) {
  fmt::print("_thimble() {{\n  local cur=${{COMP_WORDS[COMP_CWORD]}} words=\n  case ${{COMP_WORDS[1]}} in\n");
  for (const CLI::App* sub : app.get_subcommands({})) {
    std::vector<std::string> options;
    for (const CLI::Option* option : sub->get_options()) {
      for (const std::string& name : option->get_lnames()) options.push_back("--" + name);
    }
    fmt::print("    {}) words='{}' ;;\n", sub->get_name(), join(options, " "));
  }
  fmt::print("  esac\n  [[ $COMP_CWORD -eq 1 ]] && words='{}'\n"
             "  COMPREPLY=($(compgen -W \"$words\" -- \"$cur\") $(compgen -f -- \"$cur\"))\n}}\n"
             "complete -F _thimble thimble\n", join(command_names(app), " "));
}

}  // namespace

void add_help_command(CLI::App& app, CommandSession&) {
  struct Arguments {
    std::string topic;
    bool markdown = false, schema = false, completion = false;
  };
  auto a = std::make_shared<Arguments>();
  CLI::App* help = app.add_subcommand("help", "Explain a command or the keys of a job file");
  help->add_option("topic", a->topic, "A command, job, job.TABLE or job.TABLE.KEY");
  help->add_flag("--markdown", a->markdown, "The whole job reference as Markdown");
  help->add_flag("--schema", a->schema, "JSON Schema of job files");
  help->add_flag("--completion", a->completion, "Completion script for bash");
  help->footer("Examples:\n  thimble help train\n  thimble help job.optimizer\n"
               "  source <(thimble help --completion)");
  help->callback([a, &app] {
    if (a->markdown) {
      fmt::print("{}", job::job_markdown());
    } else if (a->schema) {
      fmt::print("{}", job::job_schema());
    } else if (a->completion) {
      print_bash_completion(app);
    } else {
      print_help(app, a->topic);
    }
  });
}

}  // namespace thimble
