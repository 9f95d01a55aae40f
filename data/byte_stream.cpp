#include "data/byte_stream.h"

#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <vector>

#include "core/base/error.h"
#include "core/io/file.h"

namespace thimble {
namespace {

/// gzip, and files that are not compressed.
class GzipStream final : public ByteStream {
 public:
  explicit GzipStream(const std::filesystem::path& path)
      : path_(path), file_(File::open_read(path)), handle_(gzopen(path.c_str(), "rb")) {
    if (handle_ == nullptr) throw_errno("gzopen", path.string());
    gzbuffer(handle_, 1u << 18);
  }
  ~GzipStream() override { gzclose(handle_); }
  GzipStream(const GzipStream&) = delete;
  GzipStream& operator=(const GzipStream&) = delete;

  std::size_t read(std::span<char> buffer) override {
    const int got = gzread(handle_, buffer.data(), static_cast<unsigned>(buffer.size()));
    int code = Z_OK;
    const char* text = gzerror(handle_, &code);
    if (got < 0 || code == Z_BUF_ERROR) {
      if (code == Z_ERRNO) throw_errno("read", path_.string());
      throw_user("{}: damaged or incomplete gzip file: {}", path_.string(), text);
    }
    return static_cast<std::size_t>(got);
  }

  std::int64_t stored_bytes() const override {
    return std::max<std::int64_t>(0, gzoffset(handle_));
  }

 private:
  std::filesystem::path path_;
  File file_;  // says why, if it cannot be opened
  gzFile handle_;
};

class ZstdStream final : public ByteStream {
 public:
  explicit ZstdStream(const std::filesystem::path& path)
      : path_(path),
        file_(File::open_read(path)),
        context_(ZSTD_createDCtx()),
        packed_(ZSTD_DStreamInSize()) {
    if (context_ == nullptr) throw_system("ZSTD_createDCtx: {}: out of memory", path.string());
  }
  ~ZstdStream() override { ZSTD_freeDCtx(context_); }
  ZstdStream(const ZstdStream&) = delete;
  ZstdStream& operator=(const ZstdStream&) = delete;

  std::size_t read(std::span<char> buffer) override {
    ZSTD_outBuffer out{buffer.data(), buffer.size(), 0};
    while (out.pos == 0) {
      if (in_.pos == in_.size && !fill()) {
        // What is unpacked already may still be held back.
        if (left_ == 0) return 0;
        unpack(out);
        if (out.pos == 0) throw_user("{}: incomplete zstd file", path_.string());
        break;
      }
      unpack(out);
    }
    return out.pos;
  }

  std::int64_t stored_bytes() const override {
    return stored_ - static_cast<std::int64_t>(in_.size - in_.pos);
  }

 private:
  bool fill() {
    const std::int64_t count =
        std::min(static_cast<std::int64_t>(packed_.size()), file_.size() - stored_);
    if (count <= 0) return false;
    file_.read_at(
        stored_, std::as_writable_bytes(std::span(packed_)).first(static_cast<std::size_t>(count)));
    stored_ += count;
    in_ = {packed_.data(), static_cast<std::size_t>(count), 0};
    return true;
  }

  void unpack(ZSTD_outBuffer& out) {
    left_ = ZSTD_decompressStream(context_, &out, &in_);
    if (ZSTD_isError(left_))
      throw_user("{}: damaged zstd file: {}", path_.string(), ZSTD_getErrorName(left_));
  }

  std::filesystem::path path_;
  File file_;
  ZSTD_DCtx* context_;
  std::vector<char> packed_;
  ZSTD_inBuffer in_{nullptr, 0, 0};
  std::int64_t stored_ = 0;
  std::size_t left_ = 0;  // 0: a frame is complete
};

bool is_zstd(const std::filesystem::path& path) {
  const File file = File::open_read(path);
  std::array<char, 4> head{};
  if (file.size() < static_cast<std::int64_t>(head.size())) return false;
  file.read_at(0, std::as_writable_bytes(std::span(head)));
  return std::string_view(head.data(), head.size()) == "\x28\xB5\x2F\xFD";
}

}  // namespace

std::unique_ptr<ByteStream> open_byte_stream(const std::filesystem::path& path) {
  if (is_zstd(path)) return std::make_unique<ZstdStream>(path);
  return std::make_unique<GzipStream>(path);
}

}  // namespace thimble
