#include "offload/commit_record.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "core/base/error.h"
#include "core/base/failpoint.h"
#include "core/base/numeric.h"
#include "core/io/crc32c.h"
#include "core/io/file.h"
#include "core/io/strict_json.h"

namespace thimble {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr std::string_view kFormat = "thimble-offload-1";
constexpr std::int64_t kMostBytes = 256 * kMiB;

std::string checksum_line(std::string_view lines) {
  return fmt::format("{{\"crc32c\":{}}}\n", crc32c(std::as_bytes(std::span(lines))));
}

const json& array_of(const json& object, const char* name, std::string_view where) {
  const auto found = object.find(name);
  if (found == object.end() || !found->is_array())
    throw_user("{}: '{}' must be a list", where, name);
  return *found;
}

bool truth_of(const json& object, const char* name, std::string_view where) {
  const auto found = object.find(name);
  if (found == object.end() || !found->is_boolean())
    throw_user("{}: '{}' must be true or false", where, name);
  return found->get<bool>();
}

std::int64_t whole_number(const json& value, std::string_view where) {
  if (!value.is_number_integer()) throw_user("{}: a whole number is expected", where);
  return value.get<std::int64_t>();
}

CommitRecord::Key read_key(const json& line, std::size_t files, const std::string& where) {
  CommitRecord::Key key;
  key.name = json_text(line, "name", where, "key");
  key.bytes = json_size(line, "bytes", where, "key");
  const std::int64_t file = json_size(line, "file", where, "key");
  if (file > static_cast<std::int64_t>(files)) throw_user("{}: no file {}", where, file);
  key.file = static_cast<int>(file) - 1;
  const json& ends = array_of(line, "ends", where);
  const json& checksums = array_of(line, "crc32c", where);
  if (ends.size() != checksums.size()) throw_user("{}: a checksum for each run", where);
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < ends.size(); ++i) {
    const std::int64_t end = whole_number(ends[i], where), crc = whole_number(checksums[i], where);
    if (end <= begin || end - begin > kRunBytes || crc < 0 || crc > 0xFFFFFFFFLL)
      throw_user("{}: run {} is not one", where, i);
    key.runs.push_back({begin, end, static_cast<std::uint32_t>(crc)});
    begin = end;
  }
  if (begin != (key.file < 0 ? 0 : key.bytes))
    throw_user("{}: the runs end at byte {} of {}", where, begin, key.bytes);
  return key;
}

}  // namespace

std::string commit_text(const CommitRecord& record) {
  std::string text =
      ordered_json{
          {"format", kFormat},     {"identity", record.identity}, {"generation", record.generation},
          {"step", record.step},   {"torn", record.torn},         {"layout", record.layout},
          {"files", record.files}, {"keys", record.keys.size()},  {"note", record.note}}
          .dump() +
      "\n";
  for (const CommitRecord::Key& key : record.keys) {
    ordered_json ends = ordered_json::array(), checksums = ordered_json::array();
    for (const ChecksumRun& run : key.runs) {
      ends.push_back(run.end);
      checksums.push_back(run.crc);
    }
    text += ordered_json{{"name", key.name},
                         {"bytes", key.bytes},
                         {"file", key.file + 1},
                         {"ends", std::move(ends)},
                         {"crc32c", std::move(checksums)}}
                .dump() +
            "\n";
  }
  return text + checksum_line(text);
}

CommitRecord parse_commit(std::string_view text, std::string_view file) {
  const std::size_t last = text.size() < 2 ? text.npos : text.rfind('\n', text.size() - 2);
  if (last == text.npos) throw_user("{}: the record is cut short", file);
  std::string_view lines = text.substr(0, last + 1);
  if (text.substr(last + 1) != checksum_line(lines))
    throw_user("{}: the record is damaged: its checksum does not match", file);
  const auto next = [&] {
    const std::size_t end = lines.find('\n');
    if (end == lines.npos) throw_user("{}: the record has too few lines", file);
    json value = parse_strict_json(lines.substr(0, end), file);
    if (!value.is_object()) throw_user("{}: every line must be an object", file);
    lines.remove_prefix(end + 1);
    return value;
  };
  const std::string name(file);
  const json head = next();
  if (json_text(head, "format", name, "line 1") != kFormat)
    throw_user("{}: 'format' is not {}", file, kFormat);
  CommitRecord record{.identity = json_text(head, "identity", name, "line 1"),
                      .generation = json_size(head, "generation", name, "line 1"),
                      .step = json_size(head, "step", name, "line 1"),
                      .torn = truth_of(head, "torn", name),
                      .note = json_text(head, "note", name, "line 1"),
                      .layout = 0,
                      .files = {},
                      .keys = {}};
  const std::int64_t layout = json_size(head, "layout", name, "line 1");
  if (layout > 0xFFFFFFFFLL) throw_user("{}: 'layout' is not a checksum", file);
  record.layout = static_cast<std::uint32_t>(layout);
  for (const json& entry : array_of(head, "files", name)) {
    if (!entry.is_string() || !is_plain_file_name(entry.get<std::string>()))
      throw_user("{}: 'files' must be plain names", file);
    std::string plain = entry.get<std::string>();
    if (std::count(record.files.begin(), record.files.end(), plain) > 0)
      throw_user("{}: 'files' names '{}' twice", file, plain);
    record.files.push_back(std::move(plain));
  }
  const std::int64_t keys = json_size(head, "keys", name, "line 1");
  std::set<std::string> names;
  for (std::int64_t i = 0; i < keys; ++i) {
    record.keys.push_back(
        read_key(next(), record.files.size(), fmt::format("{}: key {}", name, i)));
    if (!names.insert(record.keys.back().name).second)
      throw_user("{}: key {} is there twice", file, i);
  }
  if (!lines.empty()) throw_user("{}: the record has too many lines", file);
  return record;
}

std::filesystem::path commit_path(const std::filesystem::path& directory, int rank,
                                  std::int64_t generation) {
  return directory / fmt::format("commit-{}-{}", rank, generation % 2 == 0 ? "even" : "odd");
}

void write_commit(const std::filesystem::path& directory, int rank, const CommitRecord& record) {
  failpoint("offload.record");
  write_file_atomic(commit_path(directory, rank, record.generation), commit_text(record));
  failpoint("offload.record");
}

void remove_commits_after(const std::filesystem::path& directory, int rank,
                          std::int64_t generation) {
  bool removed = false;
  for (const std::int64_t parity : {0, 1}) {
    if (generation > 0 && generation % 2 == parity) continue;
    const std::filesystem::path path = commit_path(directory, rank, parity);
    try {
      if (parse_commit(read_text_file(path, kMostBytes), path.string()).generation <= generation)
        continue;
    } catch (const std::runtime_error&) {
      // Not there, or of no use to anybody.
    }
    std::error_code error;
    removed |= std::filesystem::remove(path, error);
    if (error) throw_system("cannot remove {}: {}", path.string(), error.message());
  }
  if (removed) sync_directory(directory);
}

std::vector<CommitRecord> read_commits(const std::filesystem::path& directory, int rank,
                                       std::vector<std::string>& rejected) {
  std::vector<CommitRecord> found;
  for (const std::int64_t parity : {0, 1}) {
    const std::filesystem::path path = commit_path(directory, rank, parity);
    std::error_code error;
    if (!std::filesystem::exists(path, error)) continue;
    try {
      found.push_back(parse_commit(read_text_file(path, kMostBytes), path.string()));
    } catch (const std::runtime_error& e) {
      rejected.emplace_back(e.what());
    }
  }
  std::sort(found.begin(), found.end(), [](const CommitRecord& a, const CommitRecord& b) {
    return a.generation > b.generation;
  });
  return found;
}

}  // namespace thimble
