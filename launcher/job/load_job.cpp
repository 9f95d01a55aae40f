#include "launcher/job/load_job.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "core/base/error.h"
#include "core/base/text.h"
#include "launcher/job/plausible.h"
#include "launcher/job/reader.h"

namespace thimble::job {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxJobBytes = std::size_t{1} << 20;
constexpr std::string_view kPrefix = "THIMBLE_";

constexpr std::array kOtherVariables{
    OtherVariable{"THIMBLE_COMM_TIMEOUT_S",
                  "Seconds after which ranks stop waiting for another rank (default 600)"},
    OtherVariable{"THIMBLE_NODE_ADDRESS",
                  "Network interface, or IPv4 address, at which keepers of other nodes reach this "
                  "one (checkpoint.memory_steps; default 127.0.0.1)"},
    OtherVariable{"THIMBLE_NODE", "Name of this node among those of a run (default: the host's)"},
    OtherVariable{"THIMBLE_FAILPOINT", "For tests: fails, kills or delays at a named place"},
    OtherVariable{"THIMBLE_FAULT",
                  "For tests: kills, stops, delays or fails a rank at a step or operation"},
    OtherVariable{"THIMBLE_FLIGHT_DIR",
                  "Set by `thimble launch`: where ranks write flight records"},
    OtherVariable{"THIMBLE_FLIGHT_HOST", "Set by `thimble launch`: the node it runs on"},
    OtherVariable{"THIMBLE_ISA",
                  "Instructions that kernels may use: avx2, avx512 or avx512_bf16; all that the "
                  "CPU has otherwise"},
    OtherVariable{"THIMBLE_RESTART_COUNT",
                  "Set by `thimble launch`: number of starts before this one"},
    OtherVariable{"THIMBLE_SHARED_DATA", "For tests: a folder of models and texts"},
};

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    std::error_code ignored;
    const int code = errno;
    if (!fs::exists(path, ignored) && code == ENOENT)
      throw_user("{}: no such job file", path.string());
    throw_user("cannot open {}: {}", path.string(), std::strerror(code));
  }
  if (fs::is_directory(path)) throw_user("{}: a directory, not a job file", path.string());
  std::string text(kMaxJobBytes + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (in.bad()) throw_errno("read", path.string());
  text.resize(static_cast<std::size_t>(in.gcount()));
  return text;
}

void check_size(std::string_view text, const std::string& file) {
  if (text.size() > kMaxJobBytes) throw_user("{}:1:1: error: a job file holds at most 1 MiB", file);
}

std::vector<JobOverride> from_environment(const Environment& environment, JobNotes& notes) {
  std::vector<JobOverride> overrides;
  std::vector<std::string> names;
  for (const OtherVariable& variable : kOtherVariables) names.emplace_back(variable.name);
  for (const std::string& key : variable_keys()) {
    names.push_back(variable_name(key));
    const auto found = environment.find(names.back());
    if (found == environment.end() || found->second.empty()) continue;
    overrides.push_back({key, found->second, fmt::format("{}={}", found->first, found->second)});
  }
  for (const auto& [name, value] : environment) {
    if (!name.starts_with(kPrefix) || std::find(names.begin(), names.end(), name) != names.end())
      continue;
    const auto near = name.size() <= 100 ? nearest_spelling(name, names) : std::nullopt;
    notes.warnings.push_back(fmt::format("{} is no variable of Thimble{}", printable(name),
                                         near ? fmt::format("; did you mean {}?", *near) : ""));
  }
  return overrides;
}

void add_sets(std::span<const std::string> sets, std::vector<JobOverride>& overrides) {
  std::vector<std::string> errors;
  for (const std::string& set : sets) {
    const std::size_t equals = set.find('=');
    if (equals == std::string::npos || equals == 0) {
      errors.push_back(fmt::format("--set {}: error: expected key=value", printable(set, 200)));
    } else {
      overrides.push_back(
          {set.substr(0, equals), set.substr(equals + 1), fmt::format("--set {}", set)});
    }
  }
  if (!errors.empty()) throw UserError(join(errors, "\n"));
}

}  // namespace

std::span<const OtherVariable> other_variables() {
  return kOtherVariables;
}

JobConfig load_job(const fs::path& path, std::span<const std::string> sets,
                   const Environment& environment, JobNotes& notes) {
  const std::string text = read_file(path);
  check_size(text, path.string());
  std::vector<JobOverride> overrides = from_environment(environment, notes);
  add_sets(sets, overrides);
  JobDraft draft = read_job(text, path.string(), overrides);
  notes.overrides.insert(notes.overrides.end(), draft.applied.begin(), draft.applied.end());
  if (draft.config.name.empty()) draft.config.name = path.stem().string();
  if (!draft.syntax_error) {
    check_combinations(draft);
    resolve_paths(draft, fs::absolute(path).parent_path(), environment);
  }
  if (!draft.errors.empty()) throw UserError(draft.errors.text());
  for (std::string& line : implausible_values(draft.config))
    notes.warnings.push_back(std::move(line));
  return std::move(draft.config);
}

JobConfig load_job(const fs::path& path, std::span<const std::string> sets, JobNotes& notes) {
  return load_job(path, sets, process_environment(), notes);
}

JobConfig parse_job_text(std::string_view text, const std::string& file) {
  check_size(text, file);
  JobDraft draft = read_job(text, file, {});
  if (!draft.syntax_error) check_combinations(draft);
  if (!draft.errors.empty()) throw UserError(draft.errors.text());
  return std::move(draft.config);
}

std::string variable_name(std::string_view key) {
  std::string name(kPrefix);
  for (const char c : key) {
    name += c == '.' ? '_' : c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  }
  return name;
}

std::vector<std::string> variable_keys() {
  std::vector<std::string> keys;
  JobConfig job = full_job();
  walk_fields(job, [&](const std::string& key, Field& field) {
    const bool is_list = std::holds_alternative<std::vector<std::string>*>(field.value) ||
                         std::holds_alternative<std::array<double, 2>*>(field.value) ||
                         std::holds_alternative<std::map<std::string, std::string>*>(field.value);
    if (!is_list && key.find('[') == std::string::npos) keys.push_back(key);
  });
  return keys;
}

Environment process_environment() {
  Environment environment;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    const std::size_t equals = text.find('=');
    if (equals != std::string_view::npos) {
      environment.emplace(text.substr(0, equals), text.substr(equals + 1));
    }
  }
  return environment;
}

}  // namespace thimble::job
