#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <span>

#include "core/base/error.h"
#include "core/base/text.h"
#include "data/data_spec.h"
#include "launcher/commands/command.h"
#include "launcher/commands/option_hints.h"
#include "launcher/commands/version.h"
#include "launcher/run/console.h"
#include "launcher/run/log.h"

namespace thimble {
namespace {

// Hides defaults that are empty or that the description tells in words.
void hide_empty_defaults(CLI::App& app) {
  for (CLI::Option* option : app.get_options()) {
    const bool told = option->get_description().find("(default") != std::string::npos;
    if (told || option->get_default_str() == "[]") option->default_str("");
  }
  for (CLI::App* inner : app.get_subcommands([](CLI::App*) { return true; }))
    hide_empty_defaults(*inner);
}

// The subcommand of `command` that `words` name, or null.
const CLI::App* inner_command(const CLI::App& command, std::span<const std::string> words) {
  for (const CLI::App* inner : command.get_subcommands({})) {
    if (words.size() > 1 &&
        std::find(words.begin() + 1, words.end(), inner->get_name()) != words.end())
      return inner;
  }
  return nullptr;
}

// CLI11 writes the largest double in full; this says "above 0" instead.
std::string plain_range(std::string text) {
  const std::size_t at = text.find(" not in range 0.000000 to 1797693134");
  if (at != std::string::npos) text = text.substr(0, at) + ": allowed above 0";
  return text;
}

// Whether the standard library's error about a path is one that the user can mend.
bool is_users_mistake(const std::error_code& code) {
  for (const std::errc e :
       {std::errc::permission_denied, std::errc::no_such_file_or_directory,
        std::errc::not_a_directory, std::errc::is_a_directory, std::errc::file_exists,
        std::errc::filename_too_long, std::errc::too_many_symbolic_link_levels,
        std::errc::read_only_file_system}) {
    if (code == e) return true;
  }
  return false;
}

// The message for a parse error of a command that exists.
std::string command_error_text(const CLI::App& app, const CLI::ParseError& error,
                               std::span<const std::string> words) {
  const CLI::App* command = app.get_subcommand(words[0]);
  std::string path = words[0];
  for (const CLI::App* inner = inner_command(*command, words); inner != nullptr;
       inner = inner_command(*command, words)) {
    command = inner;
    path += " " + command->get_name();
  }
  const bool lacks = dynamic_cast<const CLI::RequiredError*>(&error) != nullptr;
  if (lacks || dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) {
    const std::vector<std::string> unknown = app.remaining(true);
    const std::string hint =
        unknown.empty() ? "" : option_hint(*command, path, words, unknown.front());
    if (!hint.empty()) return hint;
  }
  std::string text = fmt::format("{}: {}", path, plain_range(error.what()));
  if (lacks) text += fmt::format("; see thimble help {}", path);
  return text;
}

// CLI11's message in one line, with the nearest command for a misspelt one.
std::string parse_error_text(const CLI::App& app, const CLI::ParseError& error,
                             const CommandSession& session) {
  const auto one_line = [](std::string text) {
    std::replace(text.begin(), text.end(), '\n', ' ');
    return text;
  };
  if (session.command_line.size() < 2) return one_line(error.what());
  std::vector<std::string> names;
  for (const CLI::App* sub : app.get_subcommands({})) names.push_back(sub->get_name());
  const std::string& first = session.command_line[1];
  const bool known = std::find(names.begin(), names.end(), first) != names.end();
  if (known) {
    return one_line(command_error_text(app, error, std::span(session.command_line).subspan(1)));
  }
  if (first.starts_with("-")) return one_line(error.what());
  if (first.ends_with(".toml"))
    return fmt::format("'{0}' is no command; did you mean: thimble train {0}", printable(first));
  const auto nearest = nearest_spelling(first, names);
  return fmt::format("unknown command '{}'{}; commands: {}", printable(first),
                     nearest ? fmt::format(", did you mean '{}'?", *nearest) : "", join(names));
}

// Throws if results could not be written. A reader who closed the pipe wants no more of them, so
// that is no error.
void flush_results() {
  errno = 0;
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return;
  if (errno == EPIPE) return;
  throw_system("cannot write standard output{}{}", errno == 0 ? "" : ": ",
               errno == 0 ? "" : std::strerror(errno));
}

}  // namespace

void add_field_options(CLI::App& command, FieldNames& fields) {
  command.add_option("--field-text", fields.text, "JSON key of the text");
  command.add_option("--field-prompt", fields.prompt, "JSON key of the prompt");
  command.add_option("--field-completion", fields.completion, "JSON key of the completion");
}

void add_special_tokens_option(CLI::App& command, std::string& value) {
  command
      .add_option(
          "--special-tokens", value,
          "What \"<|im_end|>\" in the text is: parse: that token; text: characters like any")
      ->check(CLI::IsMember({"parse", "text"}))
      ->capture_default_str();
}

void report_error(const CommandSession& session, std::string_view message) {
  // A UserError of a job file already carries one clickable line per mistake.
  const bool has_lines = message.find(": error: ") != std::string_view::npos;
  const std::string text = has_lines ? std::string(message) : fmt::format("error: {}", message);
  if (session.console != nullptr) {
    session.console->end_live_line();
    session.console->print_line(text);
  } else {
    fmt::print(stderr, "{}\n", text);
  }
}

void CommandSession::start() {
  console = std::make_shared<Console>();
  start_logging(console, quiet ? "error" : log_level);
}

int run_command_line(int argc, char** argv, std::span<const AddCommand> commands) {
  CommandSession session;
  session.command_line.assign(argv, argv + argc);
  CLI::App app(
      "Thimble trains and fine-tunes language models in little memory, which it plans to the byte "
      "before it starts.",
      "thimble");
  app.option_defaults()->always_capture_default();
  app.require_subcommand(0, 1);
  app.fallthrough();
  app.add_option("--log-level", session.log_level, "Messages to show: " + join(log_level_names()));
  app.add_flag("--quiet,-q", session.quiet, "Only errors on the terminal");
  bool version = false, json = false;
  app.add_flag("--version", version, "Version, build and instruction set; --json for machines");
  app.add_flag("--json", json)->group("");
  app.footer(
      "Examples:\n"
      "  thimble plan job.toml\n"
      "  thimble train job.toml --set training.max_steps=200\n"
      "  thimble generate --model runs/job/model --prompt \"Once upon a time\"\n"
      "  thimble help job.training");
  for (const AddCommand add : commands) add(app, session);
  hide_empty_defaults(app);
  try {
    try {
      app.parse(argc, argv);
      if (version) {
        print_version(json);
      } else if (app.get_subcommands().empty()) {
        fmt::print("{}", app.help());
      }
    } catch (const CLI::Success& asked_for_help) {
      app.exit(asked_for_help);
    }
    flush_results();
    stop_logging();
    return session.exit_code;
  } catch (const CLI::ParseError& e) {
    report_error(session, parse_error_text(app, e, session));
    return kExitUser;
  } catch (const UserError& e) {
    report_error(session, e.what());
    return kExitUser;
  } catch (const std::filesystem::filesystem_error& e) {
    report_error(session, fmt::format("cannot use {}: {}", e.path1().string(), e.code().message()));
    // During training it may be a failure of the machine, which can pass.
    const bool trains = session.command_line.size() > 1 && session.command_line[1] == "train";
    return !trains && is_users_mistake(e.code()) ? kExitUser : kExitSystem;
  } catch (const std::exception& e) {
    report_error(session, e.what());
    return kExitSystem;
  }
}

}  // namespace thimble
