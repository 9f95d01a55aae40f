#include "data/file_kind.h"

#include <algorithm>
#include <array>

#include "core/base/error.h"

namespace thimble {
namespace {

constexpr std::size_t kHead = 4096;

struct Magic {
  std::string_view bytes, what, convert;
};
constexpr std::array kMagics{
    Magic{"\xFF\xFE", "UTF-16", "iconv -f UTF-16 -t UTF-8 {} > converted.txt"},
    Magic{"\xFE\xFF", "UTF-16", "iconv -f UTF-16 -t UTF-8 {} > converted.txt"},
    Magic{"\x1F\x8B", "gzip-compressed", "zcat < {} > converted.txt"},
    Magic{"\x28\xB5\x2F\xFD", "zstd-compressed", "unzstd -k {}"},
    Magic{"\xFD\x37zXZ", "xz-compressed", "unxz -k {}"},
    Magic{"BZh", "bzip2-compressed", "bunzip2 -k {}"},
    Magic{"PK\x03\x04", "a zip archive", "unzip {}"},
    Magic{"PAR1", "Parquet",
          "python3 -c \"import pandas; pandas.read_parquet('{}').to_json('converted.jsonl', "
          "orient='records', lines=True)\""},
    Magic{"%PDF", "PDF", "pdftotext {}"},
};

// ASCII text in UTF-16 has a zero in every other byte.
bool has_alternating_zeros(std::string_view head) {
  std::array<std::size_t, 2> zeros{};
  for (std::size_t i = 0; i < head.size(); ++i) zeros[i % 2] += head[i] == '\0' ? 1 : 0;
  const std::size_t half = head.size() / 2;
  return half >= 4 && (zeros[0] > half / 2) != (zeros[1] > half / 2);
}

std::string command(std::string_view pattern, const std::string& path) {
  std::string text(pattern);
  for (std::size_t at; (at = text.find("{}")) != std::string::npos;) text.replace(at, 2, path);
  return text;
}

}  // namespace

void check_is_text(const std::string& path, std::string_view head) {
  head = head.substr(0, kHead);
  for (const Magic& magic : kMagics) {
    if (head.starts_with(magic.bytes)) {
      throw_user("{}: the file is {}, not UTF-8 text; convert it: {}", path, magic.what,
                 command(magic.convert, path));
    }
  }
  if (has_alternating_zeros(head)) {
    const bool little = head[1] == '\0';
    throw_user(
        "{}: the file is UTF-16, not UTF-8 text; convert it: iconv -f UTF-16{} -t UTF-8 {} > "
        "converted.txt",
        path, little ? "LE" : "BE", path);
  }
}

std::string invalid_utf8_warning(const std::string& path, std::size_t byte) {
  return fmt::format(
      "{}: byte {} is not valid UTF-8; such bytes are kept as they are (Latin-1? iconv "
      "-f LATIN1 -t UTF-8 {} > converted.txt)",
      path, byte, path);
}

std::string not_json_hint(const std::string& path, std::string_view line) {
  const std::size_t begin = line.find_first_not_of(" \t");
  const std::size_t end = line.find_last_not_of(" \t");
  if (begin == line.npos) return "";
  const std::string_view text = line.substr(begin, end - begin + 1);
  if (text == "{")
    return fmt::format(
        "; JSON over many lines? one object per line is read: jq -c . {} > converted.jsonl", path);
  if (text.starts_with("["))
    return fmt::format(
        "; a JSON array? one object per line is read: jq -c '.[]' {} > converted.jsonl", path);
  if (text.front() != '{' && text.find_first_of(",\t;") != text.npos) {
    return fmt::format(
        "; comma-separated values? convert them: python3 -c \"import csv, json, sys; "
        "[print(json.dumps("
        "r)) for r in csv.DictReader(open('{}', newline=''))]\" > converted.jsonl",
        path);
  }
  return "";
}

}  // namespace thimble
