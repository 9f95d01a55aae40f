// `thimble help`: commands, job keys and shell completion.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "core/base/error.h"
#include "core/base/text.h"
#include "launcher/commands/command.h"
#include "launcher/commands/completion.h"
#include "launcher/commands/man_page.h"
#include "launcher/job/help_job.h"

namespace thimble {
namespace {

struct HelpArguments {
  std::vector<std::string> topic;
  bool markdown = false, schema = false, man = false;
};

// The help of a command or a subcommand.
std::string command_help(const CLI::App& app, std::span<const std::string> words) {
  const CLI::App* at = &app;
  std::string path = "thimble";
  for (std::size_t i = 0; i < words.size(); ++i) {
    std::vector<std::string> names;
    for (const CLI::App* sub : at->get_subcommands({})) names.push_back(sub->get_name());
    const auto nearest = nearest_spelling(words[i], names);
    if (i == 0) names.insert(names.begin(), {"job", "completion"});
    if (std::find(names.begin() + (i == 0 ? 2 : 0), names.end(), words[i]) == names.end()) {
      throw_user("no help on '{}'{}{}", printable(words[i]),
                 nearest ? fmt::format(", did you mean '{}'?", *nearest) : "",
                 names.empty() ? "" : "; topics: " + join(names));
    }
    if (i > 0) path += " " + at->get_name();
    at = at->get_subcommand(words[i]);
  }
  // The application's own help() would hand the question to the command that runs, `help`.
  if (at == &app) return app.get_formatter()->make_help(&app, path, CLI::AppFormatMode::Normal);
  return at->help(path);
}

void print_help(const CLI::App& app, const HelpArguments& a) {
  const std::string first = a.topic.empty() ? "" : a.topic[0];
  if (a.man) {
    fmt::print("{}", man_page(app));
  } else if (a.markdown || a.schema) {
    if (first != "job" && !first.empty()) {
      throw_user("--markdown and --schema belong to `thimble help job`");
    }
    fmt::print("{}", a.markdown ? job::job_markdown() : job::job_schema());
  } else if (first == "completion") {
    fmt::print("{}", completion_script(app, a.topic.size() > 1 ? a.topic[1] : "bash"));
  } else if (first == "job" || first.starts_with("job.")) {
    fmt::print("{}", job::job_help_text(first == "job" ? "" : first.substr(4)));
  } else {
    fmt::print("{}", command_help(app, a.topic));
    if (first.empty()) {
      fmt::print(
          "\n`thimble help job` lists the keys of a job file, `thimble help job.training` those of "
          "a table.\n");
    }
  }
}

}  // namespace

void add_help_command(CLI::App& app, CommandSession& session) {
  auto a = std::make_shared<HelpArguments>();
  CLI::App* help = app.add_subcommand("help", "Explain a command or the keys of a job file");
  help->add_option("topic", a->topic,
                   "A command, job, job.TABLE, job.TABLE.KEY, or completion SHELL");
  help->add_flag("--markdown", a->markdown, "help job: the whole reference as Markdown")->group("");
  help->add_flag("--schema", a->schema, "help job: JSON Schema of job files")->group("");
  help->add_flag("--man", a->man, "The manual page as roff")->group("");
  help->footer(
      "Examples:\n"
      "  thimble help train\n"
      "  thimble help job.optimizer\n"
      "  source <(thimble help completion bash)");
  help->callback([a, &app, &session] {
    session.start();
    print_help(app, *a);
  });
}

}  // namespace thimble
