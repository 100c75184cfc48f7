// Decode attention of one row, one thread: bytes of KV read a second, for every KV type. SmolLM2-135M's shape (30
// layers of 9 query heads over 3 KV heads of 64) so that at 2,048 tokens nothing is still cached from the step before.
#include "attention_common.h"

using namespace bench;

int main(int argc, char** argv) {
  for (Isa isa : isas(argc, argv)) {
    const AttentionKernels& kernels = attention_kernels(isa);
    for (KvType type : kv_types(argc, argv)) {
      std::printf("%-7s %-5s", isa_name(isa), kv_name(type));
      for (int32_t tokens : {128, 512, 2048, 8192}) {
        const int32_t layers = 30;
        Setup setup(type, layers, 9, 3, 64, 64, tokens);
        for (int32_t layer = 0; layer < layers; ++layer) {
          kernels.store(setup.call(layer), setup.slice(0, tokens), 0, tokens, 0, 3);
        }
        const std::vector<RowSlice> rows = {setup.slice(tokens - 1, 1)};
        AttentionPlan plan;
        plan.build(rows, setup.model.layers[0].attention, 64, 1);
        const double seconds = best_of(tokens > 4096 ? 10 : 40, [&] {
          for (int32_t layer = 0; layer < layers; ++layer) {
            const AttentionCall call = setup.call(layer, tokens - 1);
            plan.reset();
            for (int64_t i = 0; i < plan.units(); ++i) kernels.run(call, plan, i, setup.scratch.get());
          }
        });
        const double bytes = static_cast<double>(setup.layout.block_bytes) * tokens / 64;
        std::printf("  %5d: %7.1f us %5.1f GB/s", tokens, seconds * 1e6, bytes / seconds * 1e-9);
      }
      std::printf("\n");
    }
  }
}
