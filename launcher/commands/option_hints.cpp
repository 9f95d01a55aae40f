#include "launcher/commands/option_hints.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "core/base/text.h"
#include "launcher/job/foreign_keys.h"
#include "launcher/job/walk_fields.h"

namespace thimble {
namespace {

bool takes_sets(const CLI::App& command) {
  return command.get_option_no_throw("--set") != nullptr;
}

std::string underscored(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

// The job key that an option means: written in full, by its last part, or as other trainers call
// it. Of several the one nearest the top.
std::string key_of(const std::string& name) {
  std::string best;
  for (const std::string& key : job::all_job_keys()) {
    if (key == name) return key;
    const bool shorter = best.empty() || std::count(key.begin(), key.end(), '.') <
                                             std::count(best.begin(), best.end(), '.');
    if (key.ends_with("." + name) && shorter) best = key;
  }
  if (best.empty()) best = job::foreign_key(name).value_or("");
  return best;
}

// The word after `unknown`, if it is its value.
std::string value_of(std::span<const std::string> words, const std::string& unknown) {
  const auto at = std::find(words.begin(), words.end(), unknown);
  if (at == words.end() || at + 1 == words.end()) return "VALUE";
  const std::string& next = *(at + 1);
  const bool is_option = next.size() > 1 && next[0] == '-' && std::isdigit(next[1]) == 0;
  return is_option ? "VALUE" : next;
}

std::string launch_hint(std::span<const std::string> words) {
  const auto start = std::find_if(words.begin(), words.end(),
                                  [](const auto& w) { return w == "train" || w == "bench"; });
  if (start == words.end() || std::find(words.begin(), words.end(), "--") != words.end()) return {};
  return fmt::format("what is launched stands after --: thimble {} -- {}",
                     fmt::join(words.begin(), start, " "), fmt::join(start, words.end(), " "));
}

std::string nearest_option(const CLI::App& command, const std::string& name) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_group().empty()) continue;
    names.insert(names.end(), option->get_lnames().begin(), option->get_lnames().end());
  }
  const auto nearest = nearest_spelling(name, names);
  return nearest ? "--" + *nearest : "";
}

}  // namespace

std::string option_hint(const CLI::App& command, const std::string& path,
                        std::span<const std::string> words, const std::string& unknown) {
  if (command.get_name() == "launch") {
    if (std::string hint = launch_hint(words); !hint.empty()) return hint;
  }
  if (command.get_name() == "train" && std::find(words.begin(), words.end(), "-n") != words.end())
    return "train is one process; several: thimble launch -n N -- train JOB.toml";
  if (!unknown.starts_with("--") || unknown == "--") return {};
  const std::size_t equals = unknown.find('=');
  const std::string name = unknown.substr(2, equals == std::string::npos ? equals : equals - 2);
  const std::string value =
      equals == std::string::npos ? value_of(words, unknown) : unknown.substr(equals + 1);
  const std::string start = fmt::format("{}: unknown option --{}", path, printable(name));
  const std::string option = nearest_option(command, name);
  if (takes_sets(command)) {
    if (const std::string key = key_of(underscored(name)); !key.empty())
      return fmt::format("{}; did you mean --set {}={}?", start, key, printable(value));
    if (const auto advice = job::foreign_advice(underscored(name)); advice && option.empty())
      return fmt::format("{}; {}", start, *advice);
  }
  if (!option.empty()) return fmt::format("{}; did you mean {}?", start, option);
  return fmt::format("{}; see thimble help {}", start, path);
}

}  // namespace thimble
