#include "data/line_reader.h"

#include <zlib.h>

#include <cerrno>
#include <cstring>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/io/file.h"
#include "data/utf8.h"

namespace thimble {
namespace {

constexpr std::size_t kBufferBytes = std::size_t{1} << 18;
constexpr std::size_t kMaxLineBytes = std::size_t{1} << 30;

}  // namespace

struct LineReader::Stream {
  File file;
  gzFile handle;

  explicit Stream(const std::filesystem::path& path)
      : file(File::open_read(path)), handle(gzopen(path.c_str(), "rb")) {
    if (handle == nullptr) throw_errno("gzopen", path.string());
    gzbuffer(handle, static_cast<unsigned>(kBufferBytes));
  }
  ~Stream() { gzclose(handle); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
};

LineReader::LineReader(const std::filesystem::path& path)
    : path_(path), stream_(std::make_unique<Stream>(path)), buffer_(kBufferBytes) {}

LineReader::~LineReader() = default;

std::int64_t LineReader::stored_bytes() const {
  return std::max<std::int64_t>(0, gzoffset(stream_->handle));
}

std::string LineReader::where() const {
  return fmt::format("{}:{}", path_.string(), line_number_);
}

bool LineReader::fill() {
  const int got = gzread(stream_->handle, buffer_.data(), static_cast<unsigned>(buffer_.size()));
  int code = Z_OK;
  const char* text = gzerror(stream_->handle, &code);
  if (got < 0 || code == Z_BUF_ERROR) {
    if (code == Z_ERRNO) throw_errno("read", path_.string());
    throw_user("{}: damaged or incomplete gzip file after line {}: {}", path_.string(),
               line_number_, text);
  }
  begin_ = 0;
  end_ = static_cast<std::size_t>(got);
  return got > 0;
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
    if (line.size() + count > kMaxLineBytes) {
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

}  // namespace thimble
