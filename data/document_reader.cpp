#include "data/document_reader.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/io/file.h"
#include "data/file_kind.h"
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

constexpr std::size_t kCutContext = 512;  // on each side: many words
constexpr int kCutTries = 64;

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool continues_character(char c) {
  return (static_cast<unsigned char>(c) & 0xC0u) == 0x80u;
}

bool may_cut(std::string_view text, std::size_t at, const SafeCutFn& is_safe_cut) {
  std::size_t begin = at > kCutContext ? at - kCutContext : 0;
  std::size_t end = std::min(text.size(), at + kCutContext);
  while (begin < at && continues_character(text[begin])) ++begin;
  while (end < text.size() && continues_character(text[end])) ++end;
  return is_safe_cut(text.substr(begin, at - begin), text.substr(at, end - at));
}

/// Where the first piece of `text` ends.
std::size_t piece_end(std::string_view text, const SafeCutFn& is_safe_cut) {
  if (text.size() <= kPieceBytes || !is_safe_cut) return text.size();
  int tries = 0;
  for (std::size_t i = kPieceBytes; i + 1 < text.size() && tries < kCutTries; ++i) {
    if (text[i] != ' ' || !is_letter(text[i - 1]) || !is_letter(text[i + 1])) continue;
    if (may_cut(text, i, is_safe_cut)) return i;
    ++tries;
  }
  return text.size();
}

class TextFileReader final : public DocumentReader::FileReader {
 public:
  struct Warnings {
    WarnFn invalid_utf8, no_separator;
  };

  TextFileReader(const std::string& path, std::string separator, Warnings warnings,
                 const SafeCutFn& is_safe_cut)
      : path_(path),
        separator_(std::move(separator)),
        warn_(std::move(warnings)),
        is_safe_cut_(is_safe_cut),
        file_(path) {
    text_ = file_.text();
    check_is_text(path, text_);
    at_ = text_.size() - without_byte_order_mark(text_).size();
    if (at_ == text_.size()) throw_user("{}: the file is empty", path);
    document_end_ = at_;
    check_separator();
  }

  std::optional<DocumentPiece> next() override {
    DocumentPiece piece;
    piece.begins = at_ == document_end_;
    if (piece.begins && !begin_document()) return std::nullopt;
    const std::size_t size = piece_end(text_.substr(at_, document_end_ - at_), is_safe_cut_);
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
    if (warned_) return;
    const std::size_t bad = first_invalid_utf8(text);
    if (bad == text.size()) return;
    warn_.invalid_utf8(invalid_utf8_warning(path_, at_ + bad));
    warned_ = true;
  }

  // A separator that never occurs would make the whole file one document, which nobody who gives a
  // separator wants.
  void check_separator() {
    if (separator_.empty() || text_.find(separator_) != text_.npos) return;
    std::string with_returns;
    for (const char c : separator_) with_returns += c == '\n' ? "\r\n" : std::string(1, c);
    const bool crlf = with_returns != separator_ && text_.find(with_returns) != text_.npos;
    warn_.no_separator(
        fmt::format("{}: document_separator never occurs, so the file is one document{}", path_,
                    crlf ? "; its lines end in \\r\\n: write the separator so, or convert the file "
                           "with dos2unix"
                         : ""));
  }

  std::string path_;
  std::string separator_;
  Warnings warn_;
  const SafeCutFn& is_safe_cut_;
  MappedFile file_;
  std::string_view text_;
  bool warned_ = false;
  std::size_t at_ = 0;
  std::size_t document_end_ = 0;
  bool started_ = false;
};

class JsonFileReader final : public DocumentReader::FileReader {
 public:
  /// Counts the lines that it skips in `bad_lines`.
  JsonFileReader(const std::string& path, const SourceSpec& source, WarnFn warn,
                 std::int64_t& bad_lines, const ChatTemplate* chat)
      : path_(path),
        source_(source),
        warn_(std::move(warn)),
        bad_lines_(bad_lines),
        chat_(chat),
        records_(open_records(path)) {}

  std::optional<DocumentPiece> next() override {
    while (records_->next(line_)) {
      if (is_blank(line_)) continue;
      if (!any_) check_is_text(path_, line_);
      any_ = true;
      try {
        return read_sample();
      } catch (const UserError& e) {
        if (!source_.skip_bad_lines) throw;
        ++bad_lines_;
        warn_(fmt::format("{}; such lines are skipped", e.what()));
      }
    }
    if (!any_) throw_user("{}: the file is empty", path_);
    return std::nullopt;
  }

  std::int64_t bytes_done() const override { return records_->stored_bytes(); }

 private:
  DocumentPiece read_sample() const {
    const std::string where = records_->where();
    if (!chat_) return parse_json_sample(line_, source_.format, source_.fields, where);
    const Conversation conversation =
        read_conversation(parse_json_object(line_, where), source_.format, source_.fields, where);
    DocumentPiece piece;
    try {
      piece.chat = chat_->render(conversation, source_.chat);
    } catch (const UserError& e) {
      throw_user("{}: {}", where, e.what());
    }
    piece.text = std::move(piece.chat->text);
    return piece;
  }

  std::string path_;
  const SourceSpec& source_;
  WarnFn warn_;
  std::int64_t& bad_lines_;
  const ChatTemplate* chat_;  // of conversations
  std::unique_ptr<RecordReader> records_;
  std::string line_;
  bool any_ = false;
};

}  // namespace

DocumentReader::DocumentReader(const SourceSpec& source, std::vector<std::string> files,
                               WarnFn warn, SafeCutFn is_safe_cut,
                               std::shared_ptr<const ChatTemplate> chat)
    : source_(source),
      files_(std::move(files)),
      warn_(std::move(warn)),
      is_safe_cut_(std::move(is_safe_cut)),
      chat_(std::move(chat)) {
  TH_CHECK(source.format != SampleFormat::kAuto && source.format != SampleFormat::kTokens);
  TH_CHECK_EQ(is_chat_format(source.format), chat_ != nullptr);
  for (const std::string& file : files_) bytes_total_ += File::open_read(file).size();
}

DocumentReader::~DocumentReader() = default;

WarnFn DocumentReader::once(const char* kind) {
  return [this, kind](const std::string& text) {
    if (said_.insert(kind).second && warn_) warn_(text);
  };
}

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
        current_ = std::make_unique<TextFileReader>(
            path, source_.document_separator,
            TextFileReader::Warnings{once("UTF-8"), once("separator")}, is_safe_cut_);
      } else {
        current_ =
            std::make_unique<JsonFileReader>(path, source_, once("line"), bad_lines_, chat_.get());
      }
    }
    if (std::optional<DocumentPiece> piece = current_->next()) return piece;
    current_.reset();
    bytes_before_ += current_bytes_;
  }
}

}  // namespace thimble
