#include "launcher/run/run_dir.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <string_view>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"
#include "core/io/staged.h"
#include "launcher/run/machine.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kLockName = "lock";
constexpr std::int64_t kRecordLimit = 64 * kMiB;

void make_directory(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) throw_user("cannot create the directory {}: {}", path.string(), error.message());
}

/// Whether an earlier run left anything but the lock file.
bool holds_a_run(const fs::path& path) {
  return std::any_of(fs::directory_iterator(path), fs::directory_iterator(),
                     [](const auto& entry) { return entry.path().filename() != kLockName; });
}

Json machine_json(const Machine& machine) {
  return {{"host", machine.host},
          {"kernel", machine.kernel},
          {"cpu", machine.cpu.brand},
          {"isa", machine.cpu.isa()},
          {"cores", machine.cores.usable},
          {"cores_bound_by", machine.cores.bound_by},
          {"memory_total_bytes", machine.memory.total_bytes},
          {"memory_usable_bytes", machine.memory.usable_bytes},
          {"memory_bound_by", machine.memory.bound_by}};
}

Json start_json(const RunStart& start, const Machine& machine) {
  Json entry;
  const auto now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  entry["time"] = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(now));
  entry["pid"] = ::getpid();
  entry["working_directory"] = fs::current_path().string();
  entry["command_line"] = start.command_line;
  entry["version"] = start.version;
  entry["resumed_step"] = start.resumed_step ? Json(*start.resumed_step) : Json(nullptr);
  entry["machine"] = machine_json(machine);
  entry["environment"] = Json::object();
  for (const auto& [name, value] : thimble_environment()) entry["environment"][name] = value;
  entry["content"] = Json::object();
  for (const auto& [what, hash] : start.content) entry["content"][what] = hash;
  return entry;
}

/// The earlier entries; an unreadable file is put aside, because a record must not stop a run.
Json read_starts(const fs::path& path) {
  if (!fs::exists(path)) return Json::array();
  const auto put_aside = [&path](std::string_view why) {
    const fs::path aside = move_aside(path);
    spdlog::warn("{}: {}; kept as {}, a new one is started", path.string(), why, aside.string());
    return Json::array();
  };
  Json document = Json::parse(read_text_file(path, kRecordLimit), nullptr, false);
  if (document.is_discarded() || !document.is_object()) return put_aside("not a JSON object");
  if (!document.contains("starts") || !document["starts"].is_array()) {
    return put_aside("no list \"starts\"");
  }
  return document["starts"];
}

}  // namespace

LockFile lock_run(const fs::path& run) {
  return LockFile(run / kLockName);
}

RunDir::RunDir(fs::path path, LockFile lock) : path_(std::move(path)), lock_(std::move(lock)) {}

RunDir RunDir::open(const Options& options) {
  if (!is_plain_file_name(options.name)) {
    throw_user("run name '{}': allowed is one plain file name, without '/'",
               printable(options.name));
  }
  const fs::path path = options.output_dir / options.name;
  make_directory(path);
  RunDir run(path, lock_run(path));
  if (options.fresh && holds_a_run(path)) {
    // The lock moves with the old directory and is held until the new one is locked.
    run.moved_to_ = move_aside(path);
    make_directory(path);
    run.lock_ = lock_run(path);
  }
  make_directory(run.checkpoints());
  make_directory(run.logs());
  return run;
}

void RunDir::record_start(const RunStart& start, const Machine& machine) const {
  const fs::path path = path_ / "run.json";
  Json starts = read_starts(path);
  starts.push_back(start_json(start, machine));
  const Json document{{"starts", std::move(starts)}};
  // Arguments and variables may hold any bytes; JSON may not.
  write_file_atomic(path, document.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

std::map<std::string, std::string> RunDir::recorded_content() const {
  const fs::path path = path_ / "run.json";
  std::map<std::string, std::string> content;
  if (!fs::exists(path)) return content;
  const Json document = Json::parse(read_text_file(path, kRecordLimit), nullptr, false);
  const auto starts = document.is_object() ? document.find("starts") : document.end();
  if (starts == document.end() || !starts->is_array() || starts->empty()) return content;
  const Json& last = starts->back();
  const auto found = last.is_object() ? last.find("content") : last.end();
  if (found == last.end() || !found->is_object()) return content;
  for (const auto& [what, hash] : found->items()) {
    if (hash.is_string()) content.emplace(what, hash.get<std::string>());
  }
  return content;
}

std::vector<std::pair<std::string, std::string>> thimble_environment() {
  constexpr std::string_view kPrefix = "THIMBLE_";
  std::vector<std::pair<std::string, std::string>> result;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    const auto equals = text.find('=');
    if (!text.starts_with(kPrefix) || equals == std::string_view::npos) continue;
    result.emplace_back(text.substr(0, equals), text.substr(equals + 1));
  }
  std::sort(result.begin(), result.end());
  return result;
}

}  // namespace thimble
