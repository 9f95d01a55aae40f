// What to read and how to cut it into sequences: plain values that the launcher fills from the job
// file. Paths are final (relative to the working directory or absolute, `~` and variables already
// expanded); globs are expanded by the reader.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace thimble {

enum class SampleFormat : std::uint8_t {
  kAuto,              // from the file name and the keys of the first lines
  kText,              // documents, every token trained
  kPromptCompletion,  // samples, the completion trained
  kTokens,            // a file written by tokenize_files
  kChat,      // messages with roles, rendered by a chat template; the assistant's are trained
  kShareGpt,  // the same as `conversations` of `from` and `value`
  kAlpaca,    // the same as `instruction`, `input` and `output`
};

/// "auto", "text", "prompt_completion", "tokens", "chat", "sharegpt" or "alpaca".
std::string_view format_name(SampleFormat format);
/// The inverse of format_name; unknown names throw a UserError that begins with `where`.
SampleFormat parse_format(std::string_view name, std::string_view where);

/// What happens to a sample longer than a sequence. Text defaults to kSplit, prompt and completion
/// to kError.
enum class ExcessLength : std::uint8_t { kError, kDrop, kTruncate, kSplit };

/// Keys of a JSON line that hold each part of a sample.
struct FieldNames {
  std::string text = "text";
  std::string prompt = "prompt";
  std::string completion = "completion";
  std::string messages = "messages", role = "role", content = "content";  // of chats
};

/// Which end-of-turn tokens of a chat are trained on: those of the turns that are, only that of the
/// last of these, or those of all turns.
enum class TrainOnEos : std::uint8_t { kTurn, kLast, kAll };

/// How conversations become text, and what of it is trained on.
struct ChatOptions {
  std::string chat_template =
      "tokenizer";                  // of the tokenizer, the name of a built-in one, or a file
  std::filesystem::path tokenizer;  // directory or file that the tokenizer was read from
  std::vector<std::string> roles_to_train{"assistant"};
  bool last_turn_only = false;
  TrainOnEos train_on_eos = TrainOnEos::kTurn;
};

/// One entry of [[data.train]] or [[data.eval]].
struct SourceSpec {
  std::string name;                // in messages and metrics; the first path if empty
  std::vector<std::string> paths;  // files or globs
  SampleFormat format = SampleFormat::kAuto;
  FieldNames fields;
  std::string document_separator;  // .txt only; empty: one file is one document
  bool train_on_inputs = false;    // the prompt carries loss too
  bool parse_special = true;       // "<|im_end|>" in the data is that token; false: plain text
  bool skip_bad_lines = false;     // of JSON lines; false: they are errors
  ChatOptions chat;                // of the chat formats
  double weight = 1.0;             // share of the sequences drawn, relative to the other sources
};

struct DataSpec {
  std::vector<SourceSpec> train;
  std::vector<SourceSpec> eval;  // whole files held out by name; may stand beside val_set_size
  std::int64_t seq_len = 0;
  bool packing = true;  // several samples per sequence; false: one sample per sequence, padded
  std::optional<ExcessLength> excess_length;
  double val_set_size =
      0;  // below 1: share of each training source; from 1 on: number of samples or sequences
  std::string cache_dir;   // where token files are kept between runs
  std::uint64_t seed = 0;  // of the split and of the order
  int threads = 1;         // for tokenising
};

/// Receives one line for the user that is not an error.
using WarnFn = std::function<void(const std::string&)>;

struct TokenizeProgress {
  std::int64_t bytes_done = 0;  // of the input files, as stored
  std::int64_t bytes_total = 0;
  std::int64_t documents = 0;
  std::int64_t tokens = 0;
};
using ProgressFn = std::function<void(const TokenizeProgress&)>;

}  // namespace thimble
