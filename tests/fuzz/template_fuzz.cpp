// libFuzzer target: any bytes as a chat template render or raise a UserError, within the limits of
// a rendering.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "core/base/error.h"
#include "data/conversation.h"
#include "data/template/template.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace thimble;
  try {
    const auto parsed =
        jinja::Template::parse({reinterpret_cast<const char*>(data), size}, "input");
    const Conversation conversation =
        make_conversation({{"system", "s"}, {"user", "w\xC3\xB6rld"}, {"assistant", "a\n"}});
    jinja::RenderRequest request;
    request.watched = conversation.messages;
    request.limits = {.steps = 10'000, .made_bytes = 1 << 20, .output_bytes = 1 << 16};
    request.variables.items = {{"messages", jinja::Value::list(conversation.messages)},
                               {"tools", jinja::Value::none()},
                               {"bos_token", jinja::Value::text("<s>")}};
    const jinja::Rendered rendered = parsed.render(request);
    if (rendered.text.size() > std::size_t{1} << 16) std::abort();
    for (const jinja::TextRange range : rendered.generation) {
      if (range.begin > range.end || range.end > rendered.text.size()) std::abort();
    }
  } catch (const UserError&) {
  }
  return 0;
}
