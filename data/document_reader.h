// Streams the documents of a list of .txt and JSON files (.jsonl, .json; compressed too) in a fixed
// order. It knows nothing of tokens. Called by tokenize_files; memory is one document or, for large
// plain text, one piece of it.
//
// A .txt document above kPieceBytes arrives in several pieces, so that one huge file can be
// tokenised by several threads. It is cut before a space between two letters where whoever asks for
// pieces says that a cut is safe, and otherwise not at all: where the cuts fall depends on the
// contents and on that answer alone.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "data/chat_template.h"
#include "data/data_spec.h"

namespace thimble {

inline constexpr std::size_t kPieceBytes = std::size_t{8} << 20;

/// Whether a text may be cut between two parts of it that are neighbours; false is always right.
using SafeCutFn = std::function<bool(std::string_view left, std::string_view right)>;

/// A document, or a piece of one.
struct DocumentPiece {
  std::string prompt;                  // prompt_completion only
  std::string text;                    // the document or the completion; a rendered conversation
  std::optional<RenderedChat> chat{};  // the turns of a conversation (its text is above)
  bool begins = true;                  // first piece of its document
  bool ends = true;                    // last piece of its document
};

/// Files of a source in reading order: each entry as given, globs replaced by their sorted matches.
/// Throws UserError for a pattern without a match, a directory, and a kind of file that cannot be
/// read (with the way to convert it).
std::vector<std::string> expand_paths(const std::vector<std::string>& paths);

/// True for a file written by tokenize_files (by its name).
bool is_token_path(const std::string& path);

/// The format of `source` whose expanded files are `files`: as set, or detected from the names and,
/// for JSON lines, the keys of the first lines. Never kAuto. Throws UserError if the keys fit none.
SampleFormat resolve_format(const SourceSpec& source, const std::vector<std::string>& files);

class DocumentReader {
 public:
  /// `source.format` must be neither kAuto nor kTokens; chats need `chat`. `warn` is called at most
  /// once each for invalid UTF-8 in .txt, a separator that never occurs and the first bad line that
  /// is skipped. Without `is_safe_cut` documents come whole.
  DocumentReader(const SourceSpec& source, std::vector<std::string> files, WarnFn warn,
                 SafeCutFn is_safe_cut = {}, std::shared_ptr<const ChatTemplate> chat = {});
  ~DocumentReader();

  /// The next piece; nullopt after the last. Throws UserError "file:line: ..." for lines that do
  /// not fit.
  std::optional<DocumentPiece> next();

  /// Bytes of the files as stored, all together and consumed so far.
  std::int64_t bytes_total() const { return bytes_total_; }
  std::int64_t bytes_done() const;
  /// Lines skipped so far because they could not be read; 0 unless the source allows it.
  std::int64_t bad_lines() const { return bad_lines_; }

  struct FileReader;

 private:
  SourceSpec source_;
  std::vector<std::string> files_;
  WarnFn warn_;
  /// `warn`, for the first time that something of this kind is to be said.
  WarnFn once(const char* kind);

  SafeCutFn is_safe_cut_;
  std::shared_ptr<const ChatTemplate> chat_;
  std::set<std::string> said_;
  std::int64_t bad_lines_ = 0;
  std::size_t next_file_ = 0;
  std::int64_t bytes_total_ = 0;
  std::int64_t bytes_before_ = 0;  // of the files before the current one
  std::int64_t current_bytes_ = 0;
  std::unique_ptr<FileReader> current_;
};

}  // namespace thimble
