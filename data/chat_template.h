// The chat template of a tokenizer, or one of the built-in ones, and conversations rendered by it:
// the text, and which parts of it are trained on.
//
// What is trained on is found from where the template printed a message, never by looking for
// tokens: in templates with
// {% generation %} those blocks; in others what is printed for a message of a trained role, behind
// the generation prompt. Called by the readers of data and by chats.
#pragma once

#include <cstdint>
#include <ctime>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/conversation.h"
#include "data/template/template.h"
#include "data/tokenizer.h"

namespace thimble {

/// Bytes of a rendered conversation that one message made.
struct ChatTurn {
  std::size_t begin = 0, end = 0;
  bool trained = false;
};

struct RenderedChat {
  std::string text;
  std::vector<ChatTurn> turns;  // in order, disjoint
  bool exact = false;           // turns are {% generation %} blocks, taken as they are
  bool add_bos = false;         // the template leaves BOS to the tokenizer
  TrainOnEos train_on_eos = TrainOnEos::kTurn;
};

class ChatTemplate {
 public:
  /// `directory`: what the tokenizer was read from. `choice`: "tokenizer" (its own), the name of a
  /// built-in template, or a file. Nothing if the tokenizer has none of its own. Throws UserError
  /// for files and templates that cannot be read.
  static std::optional<ChatTemplate> load(const std::filesystem::path& directory,
                                          const Tokenizer& tokenizer, const std::string& choice);
  /// The names of the built-in templates, with commas between.
  static std::string built_in_names();

  /// With one of several templates, that for tools if there is one and tools are given.
  std::string render_text(const Conversation& conversation, bool add_generation_prompt) const;
  /// Throws UserError for what the template refuses, and for turns to train on whose place in the
  /// text is not clear.
  RenderedChat render(const Conversation& conversation, const ChatOptions& options) const;

  /// Of everything that the text depends on but the conversation and the date.
  std::uint64_t digest() const { return digest_; }
  /// The file or the built-in name.
  const std::string& name() const { return template_.name(); }
  bool is_built_in() const { return built_in_; }
  /// As it was read, for a model that is exported without one of its own.
  const std::string& source() const { return source_; }

 private:
  ChatTemplate(std::string source, std::string name, bool built_in);

  jinja::RenderRequest request(const Conversation& conversation, bool add_generation_prompt) const;
  const jinja::Template& template_for(const Conversation& conversation) const;
  void read_special_tokens(const std::filesystem::path& directory, const Tokenizer& tokenizer);
  void set_digest();

  std::string source_;
  jinja::Template template_;
  std::optional<jinja::Template> for_tools_;
  std::string tools_source_;
  jinja::Dict special_tokens_;  // bos_token, eos_token, ...
  bool built_in_ = false;
  std::uint64_t digest_ = 0;
};

/// Whether `conversation`'s message `i` is trained on.
std::vector<bool> trained_messages(const Conversation& conversation, const ChatOptions& options);

}  // namespace thimble
