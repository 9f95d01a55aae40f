#include "launcher/commands/man_page.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>

#include "core/base/text.h"
#include "launcher/commands/version.h"
#include "launcher/job/load_job.h"

namespace thimble {
namespace {

// Text in which roff sees no commands.
std::string escaped(std::string_view text) {
  std::string out;
  bool line_start = true;
  for (const char c : text) {
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else if (line_start && (c == '.' || c == '\'')) {
      out += std::string("\\&") + c;
    } else {
      out += c;
    }
    line_start = c == '\n';
  }
  return out;
}

// Options without a group are hidden.
std::string options_of(const CLI::App& app) {
  std::string text;
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_group().empty() || option->get_description().empty()) continue;
    const bool takes_value = option->get_expected_max() > 0 && !option->get_lnames().empty();
    text += fmt::format(
        ".TP\n.B {}\n{}\n",
        escaped(option->get_name(option->get_positional(), true) + (takes_value ? " VALUE" : "")),
        escaped(option->get_description()));
  }
  return text;
}

std::string section(const CLI::App& app, const std::string& path) {
  std::string text = fmt::format(".SS \"thimble {}\"\n{}.\n{}", escaped(path),
                                 escaped(app.get_description()), options_of(app));
  if (!app.get_footer().empty())
    text += fmt::format(".PP\n.nf\n{}\n.fi\n", escaped(app.get_footer()));
  for (const CLI::App* inner : app.get_subcommands({}))
    text += section(*inner, path + " " + inner->get_name());
  return text;
}

}  // namespace

std::string man_page(const CLI::App& app) {
  std::string text = fmt::format(
      ".TH THIMBLE 1 \"\" \"thimble {}\" \"User Commands\"\n.SH NAME\nthimble \\- trains language "
      "models in little memory, planned before it starts\n.SH SYNOPSIS\n.B thimble\n.I "
      "COMMAND\n[OPTIONS]\n.SH "
      "OPTIONS\n{}.SH COMMANDS\n",
      escaped(thimble_version()), options_of(app));
  for (const CLI::App* sub : app.get_subcommands({})) text += section(*sub, sub->get_name());
  text +=
      ".SH EXIT STATUS\n0 done; 1 the system failed; 2 a mistake in the job or on the command "
      "line; "
      "75 saved and stopped on a signal, the same command continues.\n.SH ENVIRONMENT\n.TP\n.B "
      "THIMBLE_<KEY>\nOverrides a key of the job: THIMBLE_OPTIMIZER_LR is optimizer.lr\n";
  for (const job::OtherVariable& variable : job::other_variables()) {
    text += fmt::format(".TP\n.B {}\n{}\n", variable.name, escaped(std::string(variable.doc)));
  }
  return text +
         ".SH FILES\n.TP\n.I job.toml\nthe job; thimble help job explains its keys\n.TP\n.I "
         "runs/NAME\nthe resolved job, metrics.jsonl, checkpoints, logs and the exported model\n";
}

}  // namespace thimble
