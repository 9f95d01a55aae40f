#include "data/tokenize.h"

#include <algorithm>
#include <deque>
#include <future>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"
#include "data/chat_tokens.h"
#include "data/content_hash.h"

namespace thimble {
namespace {

constexpr std::size_t kChunkBytes = std::size_t{1} << 20;
constexpr std::size_t kChunkPieces = std::size_t{1} << 14;

/// How the trained parts of conversations are found: changed with what find_turns.cpp finds.
constexpr std::uint64_t kTurnRules = 2;

struct InputChunk {
  std::vector<DocumentPiece> pieces;
  std::uint64_t hash = 0;
};

/// The next chunk; its limits depend on the input alone. Empty at the end.
InputChunk read_chunk(DocumentReader& reader) {
  InputChunk chunk;
  ContentHash hash;
  std::size_t bytes = 0;
  while (bytes < kChunkBytes && chunk.pieces.size() < kChunkPieces) {
    std::optional<DocumentPiece> piece = reader.next();
    if (!piece.has_value()) break;
    hash.add(piece->prompt);
    hash.add(piece->text);
    hash.add(std::uint64_t{piece->begins} << 1 | std::uint64_t{piece->ends});
    if (piece->chat) {
      for (const ChatTurn& turn : piece->chat->turns) {
        hash.add(std::uint64_t{turn.begin});
        hash.add(std::uint64_t{turn.end} << 1 | std::uint64_t{turn.trained});
      }
    }
    bytes += piece->prompt.size() + piece->text.size();
    chunk.pieces.push_back(std::move(*piece));
  }
  chunk.hash = hash.value64();
  return chunk;
}

TokenChunk tokenize_chunk(const InputChunk& input, const Tokenizer& tokenizer, bool parse_special) {
  TokenChunk chunk;
  chunk.input_hash = input.hash;
  for (const DocumentPiece& piece : input.pieces) {
    chunk.records.push_back(tokenize_piece(piece, tokenizer, parse_special, chunk.tokens));
    chunk.text_bytes += narrow<std::int64_t>(piece.prompt.size() + piece.text.size());
  }
  return chunk;
}

/// Hash of everything that the tokens depend on beside the contents of the files.
ContentHash fingerprint(const SourceSpec& source, const Tokenizer& tokenizer,
                        const ChatTemplate* chat) {
  ContentHash hash;
  hash.add(std::uint64_t{kTokenFileVersion});
  hash.add(format_name(source.format));
  hash.add(source.fields.text);
  hash.add(source.fields.prompt);
  hash.add(source.fields.completion);
  hash.add(source.document_separator);
  hash.add(std::uint64_t{source.parse_special} << 1 | std::uint64_t{source.skip_bad_lines});
  hash.add(tokenizer.digest());
  hash.add(static_cast<std::uint64_t>(tokenizer.vocab_size()));
  hash.add(std::uint64_t{tokenizer.add_bos()});
  hash.add(static_cast<std::uint64_t>(tokenizer.bos_id().value_or(-1)));
  hash.add(static_cast<std::uint64_t>(tokenizer.eos_id().value_or(-1)));
  if (!chat) return hash;
  hash.add(std::uint64_t{kChatTokenFileVersion});
  hash.add(kTurnRules);
  hash.add(chat->digest());
  for (const std::string* name :
       {&source.fields.messages, &source.fields.role, &source.fields.content})
    hash.add(*name);
  for (const std::string& role : source.chat.roles_to_train) hash.add(role);
  hash.add(std::uint64_t{source.chat.last_turn_only} << 2 |
           static_cast<std::uint64_t>(source.chat.train_on_eos));
  return hash;
}

SourceSpec with_format(const SourceSpec& source, const std::vector<std::string>& files) {
  SourceSpec resolved = source;
  resolved.format = resolve_format(source, files);
  return resolved;
}

void make_directories(const std::filesystem::path& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) throw_user("cannot create {}: {}", directory.string(), error.message());
}

class Run {
 public:
  Run(const SourceSpec& source, std::vector<std::string> files, const Tokenizer& tokenizer,
      const TokenizeOptions& options, std::shared_ptr<const ChatTemplate> chat)
      : tokenizer_(tokenizer),
        looks_for_ends_(chat != nullptr),
        parse_special_(source.parse_special),
        options_(options),
        reader_(
            source, std::move(files), options.warn,
            [this](std::string_view left, std::string_view right) {
              return is_safe_cut(tokenizer_, parse_special_, left, right);
            },
            std::move(chat)) {}

  void write(TokenWriter& writer) {
    const auto window = static_cast<std::size_t>(std::max(1, options_.threads));
    // Futures that are still running when an exception leaves here are joined by their destructors.
    std::deque<std::future<TokenChunk>> running;
    for (;;) {
      InputChunk chunk = read_chunk(reader_);
      if (chunk.pieces.empty()) break;
      if (writer.skip_if_done(chunk.hash)) {
        report(writer);
        looks_for_ends_ = false;
        continue;
      }
      if (running.size() == window) take_first(running, writer);
      running.push_back(std::async(std::launch::async, [this, input = std::move(chunk)] {
        return tokenize_chunk(input, tokenizer_, parse_special_);
      }));
    }
    while (!running.empty()) take_first(running, writer);
    writer.finish(reader_.bad_lines());
    if (looks_for_ends_ && !found_end_ && options_.warn) {
      options_.warn(
          "no turn that is trained on ends in a special token of the tokenizer, so that the model "
          "does not learn where to stop; "
          "does the chat template belong to this tokenizer?");
    }
  }

 private:
  void take_first(std::deque<std::future<TokenChunk>>& running, TokenWriter& writer) {
    const TokenChunk chunk = running.front().get();
    running.pop_front();
    for (const DocumentRecord& record : chunk.records) found_end_ = found_end_ || record.ends_turn;
    writer.append(chunk);
    report(writer);
  }

  void report(const TokenWriter& writer) const {
    if (!options_.progress) return;
    options_.progress(
        {reader_.bytes_done(), reader_.bytes_total(), writer.num_records(), writer.num_tokens()});
  }

  const Tokenizer& tokenizer_;
  bool looks_for_ends_;  // of the turns of chats, unless some were tokenised by an earlier run
  bool found_end_ = false;
  bool parse_special_;
  const TokenizeOptions& options_;
  DocumentReader reader_;
};

void tokenize_resolved(const SourceSpec& source, const std::vector<std::string>& files,
                       const Tokenizer& tokenizer, const std::filesystem::path& out,
                       const TokenizeOptions& options) {
  const std::shared_ptr<const ChatTemplate> chat = chat_template_of(source, tokenizer);
  TokenWriterOptions writer_options;
  writer_options.tokenizer_digest = tokenizer.digest();
  writer_options.vocab_size = tokenizer.vocab_size();
  writer_options.has_prompts = source.format != SampleFormat::kText;
  writer_options.is_chat = chat != nullptr;
  writer_options.fingerprint = fingerprint(source, tokenizer, chat.get()).value64();
  // The reader opens the files first: a missing one leaves no lock or partial file behind.
  Run run(source, files, tokenizer, options, chat);
  if (out.has_parent_path()) make_directories(out.parent_path());
  TokenWriter writer(out, writer_options);
  run.write(writer);
}

// The number of leading `ids` (of prompt and completion, tokenised as one text) that belong to the
// prompt: those that the prompt alone has too, and further ones as long as their text lies within
// the rest of the prompt.
std::int64_t ids_of_prompt(const Tokenizer& tokenizer, std::span<const std::int32_t> ids,
                           std::span<const std::int32_t> prompt) {
  std::size_t same = 0;
  while (same < ids.size() && same < prompt.size() && ids[same] == prompt[same]) ++same;
  std::size_t left = 0;
  for (const std::int32_t id : prompt.subspan(same)) left += tokenizer.token_text(id).size();
  while (same < ids.size() && left > 0 && tokenizer.token_text(ids[same]).size() <= left)
    left -= tokenizer.token_text(ids[same++]).size();
  return narrow<std::int64_t>(same);
}

// What the keys of a source may not say of conversations.
void check_chat_options(const SourceSpec& source) {
  const std::string& file = source.paths.front();
  if (!source.parse_special) {
    throw_user(
        "{}: special_tokens = \"text\" with conversations; allowed \"parse\": a chat template "
        "writes the ends of turns as special tokens",
        file);
  }
  const std::vector<std::string> roles = chat_roles();
  for (const std::string& role : source.chat.roles_to_train) {
    if (std::find(roles.begin(), roles.end(), role) == roles.end())
      throw_user("{}: roles_to_train holds '{}'; allowed: {}", file, printable(role, 40),
                 join(roles));
  }
}

}  // namespace

std::shared_ptr<const ChatTemplate> chat_template_of(const SourceSpec& source,
                                                     const Tokenizer& tokenizer) {
  if (!is_chat_format(source.format)) return nullptr;
  check_chat_options(source);
  const std::string& choice = source.chat.chat_template;
  auto chat = ChatTemplate::load(source.chat.tokenizer, tokenizer, choice);
  // Alpaca's own form is what models without a template know.
  if (!chat && source.format == SampleFormat::kAlpaca)
    chat = ChatTemplate::load({}, tokenizer, "alpaca");
  if (!chat) {
    throw_user(
        "the tokenizer '{}' has no chat template, which conversations need; set "
        "model.chat_template to {} or to a .jinja file "
        "(on a command line: --chat-template)",
        tokenizer.name(), ChatTemplate::built_in_names());
  }
  return std::make_shared<const ChatTemplate>(std::move(*chat));
}

namespace {

DocumentRecord tokenize_conversation(const DocumentPiece& piece, const Tokenizer& tokenizer,
                                     std::vector<std::int32_t>& tokens) {
  DocumentRecord record;
  if (piece.text.empty()) return record;
  ChatTokens chat = tokenize_chat(piece.text, *piece.chat, tokenizer);
  tokens.insert(tokens.end(), chat.ids.begin(), chat.ids.end());
  record.tokens = narrow<std::int64_t>(chat.ids.size());
  record.ranges = std::move(chat.trained);
  record.ends_turn = chat.ends_in_special;
  ContentHash hash;
  hash.add(piece.text);
  record.hash = hash.value64();
  return record;
}

}  // namespace

bool is_safe_cut(const Tokenizer& tokenizer, bool parse_special, std::string_view left,
                 std::string_view right) {
  const EncodeOptions inside{.parse_special = parse_special, .continues = true};
  std::vector<std::int32_t> apart = tokenizer.encode(left, inside);
  tokenizer.encode_to(right, inside, apart);
  return apart == tokenizer.encode(std::string(left).append(right), inside);
}

std::shared_ptr<const ChatTemplate> chat_template_used(const DataSpec& spec,
                                                       const Tokenizer& tokenizer) {
  for (const SourceSpec& source : spec.train) {
    if (auto chat = chat_template_of(with_format(source, expand_paths(source.paths)), tokenizer))
      return chat;
  }
  return nullptr;
}

std::string describe_source(const SourceSpec& source, const Tokenizer& tokenizer) {
  const std::vector<std::string> files = expand_paths(source.paths);
  const SourceSpec resolved = with_format(source, files);
  std::string text =
      fmt::format("{}{}: {}", files.front(),
                  files.size() > 1 ? fmt::format(" and {} more", files.size() - 1) : "",
                  format_name(resolved.format));
  const auto chat = chat_template_of(resolved, tokenizer);
  if (!chat) return text;
  text += fmt::format(", template {}", chat->name());
  try {
    const TurnEnd end = find_turn_end(*chat, tokenizer);
    if (end.id) text += fmt::format(", a turn ends in '{}' ({})", printable(end.text), *end.id);
  } catch (const UserError&) {  // it wants more than a question and an answer
  }
  return text;
}

DocumentRecord tokenize_piece(const DocumentPiece& piece, const Tokenizer& tokenizer,
                              bool parse_special, std::vector<std::int32_t>& tokens) {
  if (piece.chat) return tokenize_conversation(piece, tokenizer, tokens);
  DocumentRecord record;
  record.begins = piece.begins;
  if (piece.begins && piece.ends && piece.prompt.empty() && piece.text.empty()) return record;
  const EncodeOptions options{.parse_special = parse_special, .continues = !piece.begins};
  const std::size_t begin = tokens.size();
  if (piece.begins && tokenizer.add_bos() && tokenizer.bos_id())
    tokens.push_back(*tokenizer.bos_id());
  const std::size_t text_begin = tokens.size();
  tokenizer.encode_to(piece.prompt.empty() ? piece.text : piece.prompt + piece.text, options,
                      tokens);
  const auto text = std::span(tokens).subspan(text_begin);
  if (!piece.prompt.empty()) {
    record.prompt_tokens = narrow<std::int64_t>(text_begin - begin) +
                           ids_of_prompt(tokenizer, text, tokenizer.encode(piece.prompt, options));
  }
  record.special_tokens = std::count_if(text.begin(), text.end(),
                                        [&](std::int32_t id) { return tokenizer.is_special(id); });
  if (piece.ends && tokenizer.eos_id()) tokens.push_back(*tokenizer.eos_id());
  record.tokens = narrow<std::int64_t>(tokens.size() - begin);
  ContentHash hash;
  hash.add(piece.prompt);
  hash.add(piece.text);
  record.hash = hash.value64();
  return record;
}

void tokenize_files(const SourceSpec& source, const Tokenizer& tokenizer,
                    const std::filesystem::path& out, const TokenizeOptions& options) {
  const std::vector<std::string> files = expand_paths(source.paths);
  const SourceSpec resolved = with_format(source, files);
  if (resolved.format == SampleFormat::kTokens) {
    throw_user("{}: already a token file; name text to tokenise", files.front());
  }
  if (!is_token_path(out.string())) {
    throw_user("output '{}': the name of a token file ends in .tokens", out.string());
  }
  tokenize_resolved(resolved, files, tokenizer, out, options);
}

std::filesystem::path cached_token_file(const SourceSpec& source, const Tokenizer& tokenizer,
                                        const std::filesystem::path& cache_dir,
                                        const TokenizeOptions& options) {
  const std::vector<std::string> files = expand_paths(source.paths);
  const SourceSpec resolved = with_format(source, files);
  if (resolved.format == SampleFormat::kTokens) return files.front();
  ContentHash hash = fingerprint(resolved, tokenizer, chat_template_of(resolved, tokenizer).get());
  for (const std::string& file : files) {
    hash.add(std::filesystem::path(file).extension().string());
    hash.add(MappedFile(file).bytes());
  }
  const std::filesystem::path out = cache_dir / (hash.hex() + ".tokens");
  std::error_code ignored;
  if (!std::filesystem::exists(out, ignored)) {
    tokenize_resolved(resolved, files, tokenizer, out, options);
  }
  return out;
}

}  // namespace thimble
