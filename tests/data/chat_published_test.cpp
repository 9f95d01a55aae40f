// Published chat templates against what transformers makes of them; needs the folder of shared
// data.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "tests/data/chat_test_util.h"

namespace thimble {
namespace {

TEST(ChatTemplatePublished, EachRendersAsInTransformers) {
  const char* folder = std::getenv("THIMBLE_SHARED_DATA");
  const std::filesystem::path templates =
      std::filesystem::path(folder != nullptr ? folder : "../shared/data") / "templates";
  if (!std::filesystem::exists(templates)) GTEST_SKIP() << "no data: " << templates;
  int texts = 0, refused = 0;
  const Conversations conversations;
  const Json published = chat_fixture("published.json");
  for (const auto& [file, of_template] : published.items()) {
    const std::string source = read_bytes(templates / file);
    for (const Conversations::Row& row : conversations.rows) {
      SCOPED_TRACE(file + ": " + row.name);
      for (const int prompted : {0, 1}) {
        const auto text = render_text(source, file, row.messages, row.tools, prompted == 1);
        expect_text(text, of_template.at(row.name)[static_cast<std::size_t>(prompted)]);
        ++(text ? texts : refused);
      }
    }
  }
  EXPECT_GT(texts, 450);
  EXPECT_GT(refused, 50);
}

}  // namespace
}  // namespace thimble
