from ._chromatin import gene_activity as gene_activity
from ._chromatin import pbmc_chromatin as pbmc_chromatin
from ._cite import pbmc_cite as pbmc_cite
from ._pancreas import pancreas as pancreas
from ._pbmc import pbmc_technologies as pbmc_technologies
from ._tutorial import tutorial as tutorial
