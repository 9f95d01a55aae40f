#include "data/document_reader.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/io/file.h"
#include "data/json_sample.h"
#include "data/line_reader.h"
#include "data/utf8.h"

namespace thimble {

/// One open file.
struct DocumentReader::FileReader {
  virtual ~FileReader() = default;
  virtual std::optional<DocumentPiece> next() = 0;
  virtual std::int64_t bytes_done() const = 0;
};

namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
constexpr std::size_t kCutWindow = std::size_t{64} << 10;

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/// Where the first piece of `text` ends.
std::size_t piece_end(std::string_view text) {
  if (text.size() <= kPieceBytes) return text.size();
  const std::size_t limit = std::min(text.size() - 1, kPieceBytes + kCutWindow);
  for (std::size_t i = kPieceBytes; i < limit; ++i) {
    if (text[i] == ' ' && is_letter(text[i - 1]) && is_letter(text[i + 1])) return i;
  }
  std::size_t end = kPieceBytes;
  while (end + 4 > kPieceBytes && (static_cast<unsigned char>(text[end]) & 0xC0u) == 0x80u) --end;
  return end;
}

class TextFileReader final : public DocumentReader::FileReader {
 public:
  TextFileReader(const std::string& path, std::string separator, WarnFn warn)
      : path_(path), separator_(std::move(separator)), warn_(std::move(warn)), file_(path) {
    text_ = file_.text();
    if (text_.starts_with(kByteOrderMark)) at_ = kByteOrderMark.size();
    if (at_ == text_.size()) throw_user("{}: the file is empty", path);
    document_end_ = at_;
  }

  std::optional<DocumentPiece> next() override {
    DocumentPiece piece;
    piece.begins = at_ == document_end_;
    if (piece.begins && !begin_document()) return std::nullopt;
    const std::size_t size = piece_end(text_.substr(at_, document_end_ - at_));
    piece.text = text_.substr(at_, size);
    check_utf8(piece.text);
    at_ += size;
    piece.ends = at_ == document_end_;
    return piece;
  }

  std::int64_t bytes_done() const override { return narrow<std::int64_t>(at_); }

 private:
  /// Finds the next document that is not empty; at_ stands at the end of the last one.
  bool begin_document() {
    if (started_) skip_separator();
    started_ = true;
    for (; at_ < text_.size(); skip_separator()) {
      document_end_ =
          separator_.empty() ? text_.size() : std::min(text_.find(separator_, at_), text_.size());
      if (document_end_ > at_) return true;
    }
    document_end_ = at_;
    return false;
  }

  void skip_separator() { at_ = std::min(at_ + separator_.size(), text_.size()); }

  void check_utf8(std::string_view text) {
    if (!warn_) return;
    const std::size_t bad = first_invalid_utf8(text);
    if (bad == text.size()) return;
    warn_(fmt::format("{}: byte {} is not valid UTF-8; such bytes are kept as they are", path_,
                      at_ + bad));
    warn_ = nullptr;
  }

  std::string path_;
  std::string separator_;
  WarnFn warn_;
  MappedFile file_;
  std::string_view text_;
  std::size_t at_ = 0;
  std::size_t document_end_ = 0;
  bool started_ = false;
};

class JsonFileReader final : public DocumentReader::FileReader {
 public:
  JsonFileReader(const std::string& path, const SourceSpec& source)
      : path_(path), format_(source.format), fields_(source.fields), lines_(path) {}

  std::optional<DocumentPiece> next() override {
    while (lines_.next(line_)) {
      if (is_blank(line_)) continue;
      any_ = true;
      return parse_json_sample(line_, format_, fields_, lines_.where());
    }
    if (!any_) throw_user("{}: the file is empty", path_);
    return std::nullopt;
  }

  std::int64_t bytes_done() const override { return lines_.stored_bytes(); }

 private:
  std::string path_;
  SampleFormat format_;
  FieldNames fields_;
  LineReader lines_;
  std::string line_;
  bool any_ = false;
};

}  // namespace

DocumentReader::DocumentReader(const SourceSpec& source, std::vector<std::string> files,
                               WarnFn warn)
    : source_(source), files_(std::move(files)), warn_(std::move(warn)) {
  TH_CHECK(source.format == SampleFormat::kText ||
           source.format == SampleFormat::kPromptCompletion);
  for (const std::string& file : files_) bytes_total_ += File::open_read(file).size();
}

DocumentReader::~DocumentReader() = default;

std::int64_t DocumentReader::bytes_done() const {
  return bytes_before_ + (current_ ? current_->bytes_done() : 0);
}

std::optional<DocumentPiece> DocumentReader::next() {
  for (;;) {
    if (!current_) {
      if (next_file_ == files_.size()) return std::nullopt;
      const std::string& path = files_[next_file_++];
      current_bytes_ = File::open_read(path).size();
      if (path.ends_with(".txt")) {
        WarnFn once;
        if (warn_ && !warned_) {
          once = [this](const std::string& line) {
            warned_ = true;
            warn_(line);
          };
        }
        current_ = std::make_unique<TextFileReader>(path, source_.document_separator, once);
      } else {
        current_ = std::make_unique<JsonFileReader>(path, source_);
      }
    }
    if (std::optional<DocumentPiece> piece = current_->next()) return piece;
    current_.reset();
    bytes_before_ += current_bytes_;
  }
}

}  // namespace thimble
