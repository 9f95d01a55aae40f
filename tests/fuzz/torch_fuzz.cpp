// libFuzzer target: any bytes as a file of torch.save either give tensors that lie in the file, all
// of whose values can be read, or raise a UserError.
#include <vector>

#include "core/base/error.h"
#include "launcher/convert/checkpoint_image.h"
#include "launcher/convert/open_image.h"
#include "tests/fuzz/memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const thimble::MemoryFile file({reinterpret_cast<const std::byte*>(data), size});
  try {
    const thimble::CheckpointImage image = thimble::open_image(file.path());
    for (const auto& [name, param] : image.params) {
      std::vector<std::byte> window;
      const thimble::StoredArray& weight = param.weight;
      thimble::for_rows(weight, 1 << 16, [&](std::int64_t first, std::int64_t count) {
        window.resize(static_cast<std::size_t>(count * thimble::dtype_size(weight.dtype)));
        weight.reader->read(first, window);
      });
    }
  } catch (const thimble::UserError&) {
  }
  return 0;
}
