#include <glob.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "core/base/error.h"
#include "core/base/text.h"
#include "data/document_reader.h"
#include "data/file_kind.h"
#include "data/json_sample.h"
#include "data/line_reader.h"

namespace thimble {
namespace {

constexpr int kDetectLines = 8;

void check_kind(const std::string& path) {
  const std::string_view name = path;
  if (name.ends_with(".txt") || name.ends_with(".tokens")) return;
  for (const std::string_view kind : {".jsonl", ".json"}) {
    for (const std::string_view packed : {"", ".gz", ".zst"}) {
      if (name.ends_with(std::string(kind) + std::string(packed))) return;
    }
  }
  if (name.ends_with(".parquet")) {
    throw_user(
        "{}: Parquet is not read; convert it: python3 -c \"import pandas; "
        "pandas.read_parquet('{}').to_json('{}.jsonl', orient='records', lines=True)\"",
        path, path, name.substr(0, name.size() - std::string_view(".parquet").size()));
  }
  if (name.ends_with(".csv") || name.ends_with(".tsv")) {
    throw_user(
        "{}: comma-separated values are not read; convert them: python3 -c \"import csv, json, "
        "sys; "
        "[print(json.dumps(r)) for r in csv.DictReader(open('{}', newline=''){})]\" > {}.jsonl",
        path, path, name.ends_with(".tsv") ? ", delimiter='\\t'" : "",
        name.substr(0, name.size() - std::string_view(".csv").size()));
  }
  throw_user(
      "{}: unknown kind of data file; allowed: .txt, .jsonl, .json, both also with .gz or .zst, "
      ".tokens",
      path);
}

std::vector<std::string> glob_matches(const std::string& pattern) {
  glob_t found{};
  const int result = ::glob(pattern.c_str(), GLOB_ERR, nullptr, &found);
  const int error = errno;
  std::vector<std::string> matches(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  ::globfree(&found);
  if (result == GLOB_ABORTED && (error == ENOENT || error == ENOTDIR)) return {};
  if (result == GLOB_ABORTED && error == EACCES)
    throw_user("cannot open {}: {}", pattern, std::strerror(error));
  if (result != 0 && result != GLOB_NOMATCH)
    throw_system("glob: {}: {}", pattern, std::strerror(error));
  // glob sorts by locale; the order of the documents must not depend on it.
  std::sort(matches.begin(), matches.end());
  return matches;
}

bool is_text_path(const std::string& path) {
  return path.ends_with(".txt");
}

// Finds the format from the first lines that can be read; bad lines are left out if `skip_bad`.
SampleFormat detect_from_lines(const std::string& path, const FieldNames& fields, bool skip_bad) {
  const std::unique_ptr<RecordReader> reader = open_records(path);
  std::string line;
  std::optional<SampleFormat> found;
  std::string reason;
  for (int seen = 0; seen < kDetectLines && reader->next(line);) {
    if (is_blank(line)) continue;
    if (++seen == 1) check_is_text(path, line);
    SampleFormat format{};
    try {
      format = detect_json_format(line, fields, reader->where());
    } catch (const UserError& e) {
      if (!skip_bad) throw;
      reason = e.what();
      --seen;
      continue;
    }
    if (found.has_value() && *found != format) {
      throw_user("{}: this line looks like format '{}', the lines before like '{}'; set format",
                 reader->where(), format_name(format), format_name(*found));
    }
    found = format;
  }
  if (!found.has_value() && !reason.empty()) throw UserError(reason);
  if (!found.has_value()) throw_user("{}: the file is empty", path);
  return *found;
}

}  // namespace

std::string_view format_name(SampleFormat format) {
  switch (format) {
    case SampleFormat::kAuto:
      return "auto";
    case SampleFormat::kText:
      return "text";
    case SampleFormat::kPromptCompletion:
      return "prompt_completion";
    case SampleFormat::kTokens:
      return "tokens";
    case SampleFormat::kChat:
      return "chat";
    case SampleFormat::kShareGpt:
      return "sharegpt";
    case SampleFormat::kAlpaca:
      return "alpaca";
  }
  TH_CHECK(false, "unknown format");
}

SampleFormat parse_format(std::string_view name, std::string_view where) {
  for (const SampleFormat format :
       {SampleFormat::kAuto, SampleFormat::kText, SampleFormat::kPromptCompletion,
        SampleFormat::kTokens, SampleFormat::kChat, SampleFormat::kShareGpt,
        SampleFormat::kAlpaca}) {
    if (name == format_name(format)) return format;
  }
  throw_user(
      "{}: format '{}'; allowed: auto, text, prompt_completion, tokens, chat, sharegpt, alpaca",
      where, name);
}

bool is_token_path(const std::string& path) {
  return path.ends_with(".tokens");
}

std::vector<std::string> expand_paths(const std::vector<std::string>& paths) {
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    std::error_code ignored;
    const std::filesystem::file_status status = std::filesystem::status(path, ignored);
    if (ignored == std::errc::permission_denied)
      throw_user("cannot open {}: {}", path, ignored.message());
    if (std::filesystem::is_directory(status)) {
      throw_user("{}: is a directory; name its files, for example {}/*.jsonl", path, path);
    }
    // A file whose name holds glob characters is still that file.
    std::vector<std::string> matches;
    if (std::filesystem::exists(status)) {
      matches.push_back(path);
    } else {
      matches = glob_matches(path);
    }
    if (matches.empty()) throw_user("{}: no such file", path);
    files.insert(files.end(), matches.begin(), matches.end());
  }
  if (files.empty()) throw_user("data: no path is given");
  std::for_each(files.begin(), files.end(), check_kind);
  return files;
}

SampleFormat resolve_format(const SourceSpec& source, const std::vector<std::string>& files) {
  const auto tokens = std::count_if(files.begin(), files.end(), is_token_path);
  if (tokens > 0 || source.format == SampleFormat::kTokens) {
    if (files.size() != 1 || tokens != 1) {
      throw_user("{}: a source of format 'tokens' is one .tokens file; {} files are given",
                 files.front(), files.size());
    }
    return SampleFormat::kTokens;
  }
  const auto text = std::find_if(files.begin(), files.end(), is_text_path);
  if (source.format != SampleFormat::kAuto && source.format != SampleFormat::kText &&
      text != files.end()) {
    throw_user("{}: a .txt file has no prompts; format '{}' needs JSON lines", *text,
               format_name(source.format));
  }
  if (source.format != SampleFormat::kAuto) return source.format;
  const auto json = std::find_if_not(files.begin(), files.end(), is_text_path);
  if (json == files.end()) return SampleFormat::kText;
  const SampleFormat format = detect_from_lines(*json, source.fields, source.skip_bad_lines);
  if (text != files.end() && format != SampleFormat::kText) {
    throw_user("{}: a .txt file cannot stand in one source with {} of format '{}'", *text, *json,
               format_name(format));
  }
  return format;
}

}  // namespace thimble
