// Tokenises the files of a source into one token file (token_file.h): multithreaded, restartable,
// and byte-identical whatever the number of threads and interruptions. Also the cache of such files
// that training uses.
#pragma once

#include <filesystem>
#include <vector>

#include "data/data_spec.h"
#include "data/document_reader.h"
#include "data/token_writer.h"
#include "data/tokenizer.h"

namespace thimble {

struct TokenizeOptions {
  int threads = 1;
  WarnFn warn;  // may be empty
  ProgressFn
      progress;  // may be empty; called after each chunk; an exception from it interrupts the run
};

/// The chat template of a source whose format is resolved; null if it holds no conversations.
/// Throws UserError if there is none.
std::shared_ptr<const ChatTemplate> chat_template_of(const SourceSpec& source,
                                                     const Tokenizer& tokenizer);

/// The chat template of the first training source that holds conversations; null if none does.
std::shared_ptr<const ChatTemplate> chat_template_used(const DataSpec& spec,
                                                       const Tokenizer& tokenizer);

/// What is read from a source and how, for people: file, format, chat template.
std::string describe_source(const SourceSpec& source, const Tokenizer& tokenizer);

/// Appends the tokens of one document or piece to `tokens`, as tokenize_files writes them.
DocumentRecord tokenize_piece(const DocumentPiece& piece, const Tokenizer& tokenizer,
                              bool parse_special, std::vector<std::int32_t>& tokens);

/// Whether `left` and `right`, neighbours in a text, can be tokenised apart: the ids are those of
/// both together. They need not be long: no token reaches further than a few words.
bool is_safe_cut(const Tokenizer& tokenizer, bool parse_special, std::string_view left,
                 std::string_view right);

/// Reads the files of `source` (not format tokens) and writes `out`. A document becomes [BOS if
/// tokenizer.add_bos()] tokens EOS; a sample becomes [BOS] prompt completion EOS with the ids of
/// prompt and completion as one text; a token that reaches from one into the other belongs to the
/// completion, and to its loss; documents without text are left out and counted. The source's
/// weight, name and train_on_inputs have no influence. A conversation becomes the ids of its
/// rendered text, with nothing before or behind it (BOS only where a built-in template leaves it to
/// the tokenizer). An interrupted run is resumed if source options and tokenizer are the same,
/// chunk by chunk where the input is too. Throws UserError for data that cannot be used,
/// SystemError for I/O failures.
void tokenize_files(const SourceSpec& source, const Tokenizer& tokenizer,
                    const std::filesystem::path& out, const TokenizeOptions& options);

/// Path of the token file of `source` in `cache_dir` (created if needed), made now if it is not
/// there: keyed by the contents of the files, fields, format, separator, tokenizer and what chats
/// depend on. For format tokens the file itself.
std::filesystem::path cached_token_file(const SourceSpec& source, const Tokenizer& tokenizer,
                                        const std::filesystem::path& cache_dir,
                                        const TokenizeOptions& options);

}  // namespace thimble
