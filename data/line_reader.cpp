#include "data/line_reader.h"

#include <cstring>

#include "core/base/error.h"
#include "core/base/text.h"
#include "data/byte_stream.h"
#include "data/utf8.h"

namespace thimble {
namespace {

constexpr std::size_t kBufferBytes = std::size_t{1} << 18;
constexpr std::size_t kMaxRecordBytes = std::size_t{1} << 30;

bool is_json_blank(int c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

}  // namespace

RecordReader::RecordReader(const std::filesystem::path& path)
    : path_(path), stream_(open_byte_stream(path)), buffer_(kBufferBytes) {}

RecordReader::~RecordReader() = default;

std::int64_t RecordReader::stored_bytes() const {
  return stream_->stored_bytes();
}

std::string RecordReader::where() const {
  return fmt::format("{}:{}", path_.string(), line_number_);
}

bool RecordReader::fill() {
  begin_ = 0;
  end_ = stream_->read(buffer_);
  return end_ > 0;
}

bool LineReader::next(std::string& line) {
  line.clear();
  bool any = false;
  bool complete = false;
  while (!complete && (begin_ < end_ || fill())) {
    any = true;
    const char* start = buffer_.data() + begin_;
    const auto* newline = static_cast<const char*>(std::memchr(start, '\n', end_ - begin_));
    complete = newline != nullptr;
    const std::size_t count = complete ? static_cast<std::size_t>(newline - start) : end_ - begin_;
    if (line.size() + count > kMaxRecordBytes) {
      throw_user("{}:{}: the line is longer than 1 GiB", path_.string(), line_number_ + 1);
    }
    line.append(start, count);
    begin_ += count + (complete ? 1 : 0);
  }
  if (!any) return false;
  ++line_number_;
  if (!line.empty() && line.back() == '\r') line.pop_back();
  if (line_number_ == 1) line.erase(0, line.size() - without_byte_order_mark(line).size());
  return true;
}

int ArrayReader::peek() {
  if (begin_ == end_ && !fill()) return -1;
  return static_cast<unsigned char>(buffer_[begin_]);
}

char ArrayReader::take() {
  const char c = buffer_[begin_++];
  at_line_ += c == '\n' ? 1 : 0;
  return c;
}

void ArrayReader::skip_blanks() {
  while (is_json_blank(peek())) take();
}

void ArrayReader::unexpected(const char* expected) {
  const int c = peek();
  const char found = static_cast<char>(c);
  throw_user(
      "{}:{}: {} expected in the JSON array, found {}", path_.string(), at_line_, expected,
      c < 0 ? "the end of the file" : fmt::format("'{}'", printable(std::string_view(&found, 1))));
}

bool ArrayReader::next(std::string& element) {
  element.clear();
  if (closed_) return false;
  if (!opened_) {
    for (const int mark : {0xEF, 0xBB, 0xBF}) {
      if (peek() == mark) take();
    }
    skip_blanks();
    if (peek() != '[') unexpected("'['");
    take();
    skip_blanks();
    if (peek() == ']') {
      take();
      closed_ = true;
    }
  } else {
    skip_blanks();
    if (peek() != ',' && peek() != ']') unexpected("',' or ']'");
    closed_ = take() == ']';
  }
  opened_ = true;
  if (closed_) {
    skip_blanks();
    if (peek() >= 0) unexpected("the end of the file");
    return false;
  }
  skip_blanks();
  line_number_ = at_line_;
  read_element(element);
  return true;
}

void ArrayReader::read_element(std::string& element) {
  if (peek() < 0 || peek() == ',' || peek() == ']') unexpected("an element");
  std::int64_t depth = 0;
  bool in_string = false;
  for (;;) {
    const int c = peek();
    if (c < 0) unexpected(in_string ? "'\"'" : "the end of an element");
    if (!in_string && depth == 0 && !element.empty() && (c == ',' || c == ']' || is_json_blank(c)))
      return;
    element += take();
    if (element.size() > kMaxRecordBytes)
      throw_user("{}: the element is longer than 1 GiB", where());
    if (in_string) {
      if (c == '\\' && peek() >= 0) element += take();
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      ++depth;
    } else if (c == '}' || c == ']') {
      if (--depth <= 0) return;
    }
  }
}

std::unique_ptr<RecordReader> open_records(const std::filesystem::path& path) {
  std::string name = path.string();
  for (const std::string_view packed : {".gz", ".zst"}) {
    if (name.ends_with(packed)) name.resize(name.size() - packed.size());
  }
  if (name.ends_with(".json")) {
    char head[4096];
    const std::size_t count = open_byte_stream(path)->read(head);
    const std::string_view text = without_byte_order_mark(std::string_view(head, count));
    const std::size_t first = text.find_first_not_of(" \t\r\n");
    if (first != text.npos && text[first] == '[') return std::make_unique<ArrayReader>(path);
  }
  return std::make_unique<LineReader>(path);
}

}  // namespace thimble
