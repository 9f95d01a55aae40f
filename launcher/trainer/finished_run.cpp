#include "launcher/trainer/finished_run.h"

#include <sys/stat.h>

#include <map>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/io/file.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kName = "finished.json";
constexpr std::int64_t kLimit = 4 * kMiB;

struct FileState {
  std::int64_t bytes = 0, modified_ns = 0;
  bool operator==(const FileState&) const = default;
};

// The files below <run>/model by their names there.
std::map<std::string, FileState> model_files(const fs::path& run) {
  std::map<std::string, FileState> files;
  std::error_code error;
  const fs::path model = run / "model";
  for (fs::recursive_directory_iterator it(model, error), end; !error && it != end;
       it.increment(error)) {
    struct stat status {};
    if (::lstat(it->path().c_str(), &status) != 0 || S_ISDIR(status.st_mode)) continue;
    files[it->path().lexically_relative(model).string()] = {
        status.st_size, status.st_mtim.tv_sec * 1'000'000'000 + status.st_mtim.tv_nsec};
  }
  return files;
}

struct Record {
  FinishedRun run;
  std::map<std::string, FileState> files;
};

std::optional<Record> read_record(const fs::path& run) {
  try {
    if (!fs::exists(run / kName)) return std::nullopt;
    const Json json = Json::parse(read_text_file(run / kName, kLimit));
    Record record{.run = {.step = json.at("step"),
                          .reason = json.at("reason"),
                          .exported_step = json.at("exported_step"),
                          .wanted_step = json.at("wanted_step")},
                  .files = {}};
    for (const auto& [name, state] : json.at("files").items())
      record.files[name] = {state.at("bytes"), state.at("modified_ns")};
    return record;
  } catch (const std::exception&) {  // as good as none: what it says is done again
    return std::nullopt;
  }
}

}  // namespace

std::optional<FinishedRun> read_finished(const fs::path& run) {
  const std::optional<Record> record = read_record(run);
  if (!record || record->files.empty()) return std::nullopt;
  const auto files = model_files(run);
  for (const auto& [name, state] : record->files) {
    const auto found = files.find(name);
    if (found == files.end() || found->second.bytes != state.bytes) return std::nullopt;
  }
  return record->run;
}

void record_finished(const fs::path& run, const FinishedRun& finished) {
  Json json{{"step", finished.step},
            {"reason", finished.reason},
            {"exported_step", finished.exported_step},
            {"wanted_step", finished.wanted_step},
            {"files", Json::object()}};
  for (const auto& [name, state] : model_files(run))
    json["files"][name] = {{"bytes", state.bytes}, {"modified_ns", state.modified_ns}};
  write_file_atomic(run / kName, json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

bool is_own_export(const fs::path& run) {
  const std::optional<Record> record = read_record(run);
  return record && record->files == model_files(run);
}

}  // namespace thimble
